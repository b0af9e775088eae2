"""Dual attention: the sum of a branch with attention between positions and one with attention between channels.

Source: DANet, Fu et al. 2019, arXiv:1809.02983.
"""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import ChannelCount, Number, NumberFromZero
from segnl.models.blocks.attention_rows import AttentionRows, Pixel
from segnl.models.blocks.conv import NormActConfig, NormalInitConv2d
from segnl.models.blocks.criss_cross import Gamma
from segnl.models.blocks.projected_attention import ProjectedAttention
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput
from segnl.ops.context import channel_context


class DAConfig(HeadConfig, NormActConfig):
    """Settings of the head."""

    name: str = "da"
    channels: ChannelCount = 512
    inner_channels: ChannelCount | None = None
    """Channels of query and key; null: an eighth of `channels`."""
    gamma_init: Number = 0.0
    """Initial factor of both attentions."""
    branch_weight: NumberFromZero = 1.0
    """Weight of each branch's own loss."""
    branch_dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """Dropout of whole channels before the branches' own classifiers."""


class PositionAttention(nn.Module):
    """x + gamma * attention(x) over all positions, with unscaled scores."""

    def __init__(self, channels: int, cfg: DAConfig) -> None:
        super().__init__()
        inner = cfg.inner_channels or max(1, channels // 8)
        self.attention = ProjectedAttention(
            nn.Conv2d(channels, inner, 1),
            nn.Conv2d(channels, inner, 1),
            nn.Conv2d(channels, channels, 1),
            is_scaled=False,
        )
        self.gamma = Gamma(cfg.gamma_init)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x `b c h w` to the same shape."""
        return x + self.gamma(self.attention(x, x))


class ChannelAttention(nn.Module):
    """x + gamma * attention(x) over channels."""

    def __init__(self, cfg: DAConfig) -> None:
        super().__init__()
        self.gamma = Gamma(cfg.gamma_init)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x `b c h w` to the same shape."""
        return x + self.gamma(channel_context(x.flatten(2)).unflatten(2, x.shape[2:]))


class DAHead(ContextHead):
    """Two branches of 3x3 convolution, attention, 3x3 convolution; in training each has its own classifier."""

    Config = DAConfig

    def __init__(self, cfg: DAConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        conv = partial(cfg.conv, kernel=3)
        self.position = nn.Sequential(
            conv(self.in_channels, cfg.channels), PositionAttention(cfg.channels, cfg), conv(cfg.channels, cfg.channels)
        )
        self.channel = nn.Sequential(
            conv(self.in_channels, cfg.channels), ChannelAttention(cfg), conv(cfg.channels, cfg.channels)
        )
        self.classifiers = nn.ModuleDict(
            {name: NormalInitConv2d(cfg.channels, num_classes, 1) for name in ("position", "channel")}
        )
        self.aux_weights = {name: cfg.branch_weight for name in self.classifiers}
        self.branch_dropout = cfg.branch_dropout
        self.out_channels = cfg.channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5 to the context `b d h w` and, in training, each branch's own logits."""
        x = self.concat_stages(stages)
        branches = {"position": self.position(x), "channel": self.channel(x)}
        logits = {}
        if self.training:
            for name, context in branches.items():
                logits[name] = self.classifiers[name](F.dropout2d(context, self.branch_dropout))
        return HeadOutput(branches["position"] + branches["channel"], logits)

    def attend(self, stages: Sequence[Tensor], pixels: Sequence[Pixel]) -> AttentionRows:
        """Returns the attention weights of the pixels in the branch between positions."""
        x = self.position[0](self.concat_stages(stages))
        return AttentionRows([self.position[1].attention.attend(x, x, pixels)])  # type: ignore[operator, union-attr]


HEAD = DAHead
