"""Asymmetric non-local attention: every position asks, the means of a pyramid of grids answer.

Source: Asymmetric Non-local Neural Networks for Semantic Segmentation, Zhu et al. 2019, arXiv:1908.07678.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import ChannelCount, SmallCount
from segnl.models.blocks.conv import ConvNormAct, NormActConfig, ZeroConv2d
from segnl.models.blocks.projected_attention import ProjectedAttention, projection
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput


class ANNConfig(HeadConfig, NormActConfig):
    """Settings of the head."""

    name: str = "ann"
    in_stages: tuple[int, int] = (2, 3)
    """The stage that answers first, and the one that asks, whose size the result has."""
    channels: ChannelCount = 512
    inner_channels: ChannelCount | None = None
    """Of queries, keys and values; null: half of `channels`."""
    bins: tuple[SmallCount, ...] = Field((1, 3, 6, 8), min_length=1, max_length=16)
    """Every grid of the pyramid has so many rows and columns."""
    fusion_dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """Of whole channels, between the two attentions."""


class PooledAttention(nn.Module):
    """Attention to pooled keys and values, and back to the channels of what asked, beside which it is put and joined.

    With `is_shared` the queries' convolution makes the keys too. The last projection begins at 0, so what is
    gathered begins as nothing.
    """

    def __init__(
        self, cfg: ANNConfig, asking: int, answering: int, *, inner: int, is_shared: bool, has_act: bool
    ) -> None:
        super().__init__()
        self.attention = ProjectedAttention(
            projection(cfg, asking, inner, num_convs=1),
            None if is_shared else projection(cfg, answering, inner, num_convs=1),
            nn.Conv2d(answering, inner, 1),
            bins=cfg.bins,
        )
        self.out = ZeroConv2d(inner, asking, 1)
        slope = cfg.leaky_slope if has_act else 1.0
        self.join = ConvNormAct(2 * asking, asking, 1, has_norm=cfg.has_norm, leaky_slope=slope)

    def forward(self, asking: Tensor, answering: Tensor) -> Tensor:
        """asking `b c h w`, answering `b e * *`. Returns `b c h w`."""
        gathered = self.out(self.attention(asking, answering))
        return self.join(torch.cat([gathered, asking], dim=1))


class ANNHead(ContextHead):
    """The later stage asks the earlier one, a 3x3 convolution, then the result asks itself."""

    Config = ANNConfig

    def __init__(self, cfg: ANNConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        inner = cfg.inner_channels or max(1, cfg.channels // 2)
        low, high = (stage_channels[stage] for stage in cfg.in_stages)
        self.fusion = PooledAttention(cfg, high, low, inner=inner, is_shared=False, has_act=False)
        self.fusion_dropout = cfg.fusion_dropout
        self.reduce = ConvNormAct(high, cfg.channels, 3, has_norm=cfg.has_norm, leaky_slope=cfg.leaky_slope)
        self.itself = PooledAttention(cfg, cfg.channels, cfg.channels, inner=inner, is_shared=True, has_act=True)
        self.out_channels = cfg.channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """stages: c2..c5. Returns the context `b d h w`, of the asking stage's size."""
        low, high = (stages[stage] for stage in self.in_stages)
        x = self.reduce(F.dropout2d(self.fusion(high, low), self.fusion_dropout, self.training))
        return HeadOutput(self.itself(x, x))


HEAD = ANNHead
