"""Interlaced sparse self-attention: among positions far apart, then among neighbours.

Source: Interlaced Sparse Self-Attention for Semantic Segmentation, Huang et al. 2019, arXiv:1907.12273.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnl.core.config import ChannelCount, SmallCount
from segnl.models.blocks.conv import NormActConfig
from segnl.models.blocks.projected_attention import ProjectedAttention, projection
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput


class ISAConfig(HeadConfig, NormActConfig):
    """Settings of the head."""

    name: str = "isa"
    channels: ChannelCount = 512
    inner_channels: ChannelCount | None = None
    """Channels of query and key; null: half of `channels`."""
    group_hw: tuple[SmallCount, SmallCount] = (8, 8)
    """Rows and columns of a group of neighbours; positions at the same place of all groups attend first."""


class Relation(nn.Module):
    """Self-attention inside a group, then a 1x1 convolution, without residual."""

    def __init__(self, channels: int, inner: int, cfg: ISAConfig) -> None:
        super().__init__()
        self.attention = ProjectedAttention(
            projection(cfg, channels, inner, num_convs=2),
            projection(cfg, channels, inner, num_convs=2),
            nn.Conv2d(channels, channels, 1),
        )
        self.out = cfg.conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps groups x `g c h w` to the same shape."""
        return self.out(self.attention(x, x))


class ISAHead(ContextHead):
    """3x3 convolution, long-range and short-range attention, then a 1x1 convolution of the result and its input.

    A map whose sides are no multiples of a group's is padded with zeros on all sides; as in the published networks, the
    zeros are attended to as well.
    """

    Config = ISAConfig

    def __init__(self, cfg: ISAConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        inner = cfg.inner_channels or max(1, cfg.channels // 2)
        self.group_hw = cfg.group_hw
        self.reduce = cfg.conv(self.in_channels, cfg.channels, 3)
        self.long_range = Relation(cfg.channels, inner, cfg)
        self.short_range = Relation(cfg.channels, inner, cfg)
        self.join = cfg.conv(2 * cfg.channels, cfg.channels, 1)
        self.out_channels = cfg.channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5 to the context `b d h w`."""
        x = self.reduce(self.concat_stages(stages))
        b, _, h, w = x.shape
        group_h, group_w = self.group_hw
        pad_h, pad_w = -h % group_h, -w % group_w
        top, left = pad_h // 2, pad_w // 2
        padded = F.pad(x, (left, pad_w - left, top, pad_h - top))
        # i j: row and column of the group; y x: row and column inside it.
        groups = padded.unflatten(3, (-1, group_w)).unflatten(2, (-1, group_h))  # b c i y j x
        distant = groups.permute(0, 3, 5, 1, 2, 4)  # b y x c i j
        distant = self.long_range(distant.flatten(0, 2)).unflatten(0, (b, group_h, group_w))
        neighbours = distant.permute(0, 4, 5, 3, 1, 2)  # b i j c y x
        neighbours = self.short_range(neighbours.flatten(0, 2)).unflatten(0, neighbours.shape[:3])
        context = neighbours.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)  # b c h w, padded
        return HeadOutput(self.join(torch.cat([context[:, :, top : top + h, left : left + w], x], dim=1)))


HEAD = ISAHead
