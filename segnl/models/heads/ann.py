"""Asymmetric non-local attention: from every position to the means of a pyramid of grids.

Source: Asymmetric Non-local Neural Networks for Semantic Segmentation, Zhu et al. 2019, arXiv:1908.07678.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import ChannelCount, SmallCount
from segnl.models.blocks.attention_rows import AttentionRows, Pixel
from segnl.models.blocks.conv import NormActConfig, ZeroConv2d
from segnl.models.blocks.projected_attention import ProjectedAttention, projection
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput, Stage


class ANNConfig(HeadConfig, NormActConfig):
    """Settings of the head."""

    name: str = "ann"
    in_stages: tuple[Stage, Stage] = (2, 3)
    """Stage of the first keys and values, and stage of the queries, whose size the result has."""
    channels: ChannelCount = 512
    inner_channels: ChannelCount | None = None
    """Channels of queries, keys and values; null: half of `channels`."""
    bins: tuple[SmallCount, ...] = Field((1, 3, 6, 8), min_length=1, max_length=16)
    """Rows, and columns, of each grid of the pyramid."""
    fusion_dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """Dropout of whole channels between the two attentions."""


class PooledAttention(nn.Module):
    """Attention to pooled keys and values, whose context is concatenated with the query map and projected.

    is_tied: query and key have tied weights. The projection of the context starts at 0, and so does the context.
    """

    def __init__(
        self, cfg: ANNConfig, query_channels: int, key_channels: int, *, inner: int, is_tied: bool, has_act: bool
    ) -> None:
        super().__init__()
        self.attention = ProjectedAttention(
            projection(cfg, query_channels, inner, num_convs=1),
            None if is_tied else projection(cfg, key_channels, inner, num_convs=1),
            nn.Conv2d(key_channels, inner, 1),
            bins=cfg.bins,
        )
        self.out = ZeroConv2d(inner, query_channels, 1)
        slope = cfg.leaky_slope if has_act else 1.0
        self.join = cfg.conv(2 * query_channels, query_channels, 1, leaky_slope=slope)

    def forward(self, query_map: Tensor, key_map: Tensor) -> Tensor:
        """Maps query_map `b c h w` and key_map `b e * *` to `b c h w`."""
        context = self.out(self.attention(query_map, key_map))
        return self.join(torch.cat([context, query_map], dim=1))


class ANNHead(ContextHead):
    """Attention from the later stage to the earlier one, a 3x3 convolution, then self-attention."""

    Config = ANNConfig

    def __init__(self, cfg: ANNConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        inner = cfg.inner_channels or max(1, cfg.channels // 2)
        low, high = (stage_channels[stage] for stage in cfg.in_stages)
        self.fusion = PooledAttention(cfg, high, low, inner=inner, is_tied=False, has_act=False)
        self.fusion_dropout = cfg.fusion_dropout
        self.reduce = cfg.conv(high, cfg.channels, 3)
        self.itself = PooledAttention(cfg, cfg.channels, cfg.channels, inner=inner, is_tied=True, has_act=True)
        self.out_channels = cfg.channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5 to the context `b d h w` of the query stage's size."""
        low, high = (stages[stage] for stage in self.in_stages)
        x = self.reduce(F.dropout2d(self.fusion(high, low), self.fusion_dropout, self.training))
        return HeadOutput(self.itself(x, x))

    def query_hw(self, stages: Sequence[Tensor]) -> tuple[int, int]:
        """Returns the size of the query stage."""
        h, w = stages[self.in_stages[1]].shape[-2:]
        return h, w

    def attend(self, stages: Sequence[Tensor], pixels: Sequence[Pixel]) -> AttentionRows:
        """Returns the weights of both attentions; a convolution stands between them, so there is no routing."""
        low, high = (stages[stage] for stage in self.in_stages)
        x = self.reduce(self.fusion(high, low))
        return AttentionRows(
            [
                self.itself.attention.attend(x, x, pixels, name="self-attention"),
                self.fusion.attention.attend(high, low, pixels, name="fusion"),
            ]
        )


HEAD = ANNHead
