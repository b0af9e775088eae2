"""Interlaced sparse self-attention: among positions far apart, then among neighbours.

Source: Interlaced Sparse Self-Attention for Semantic Segmentation, Huang et al. 2019, arXiv:1907.12273.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnl.core.config import ChannelCount, SmallCount
from segnl.models.blocks.attention_rows import AttentionRows, Hop, Pixel
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
        distant = self._distant(x)
        b, group_h, group_w = distant.shape[:3]
        distant = self.long_range(distant.flatten(0, 2)).unflatten(0, (b, group_h, group_w))
        neighbours = distant.permute(0, 4, 5, 3, 1, 2)  # b i j c y x
        neighbours = self.short_range(neighbours.flatten(0, 2)).unflatten(0, neighbours.shape[:3])
        context = self._without_padding(neighbours.permute(0, 3, 1, 4, 2, 5), x)
        return HeadOutput(self.join(torch.cat([context, x], dim=1)))

    def attend(self, stages: Sequence[Tensor], pixels: Sequence[Pixel]) -> AttentionRows:
        """Returns the weights of the long-range and the short-range hop; those on padding are cut off."""
        x = self.reduce(self.concat_stages(stages))
        top, left, _, _ = self._padding(x)
        group_h, group_w = self.group_hw
        padded = [(row + top, column + left) for row, column in pixels]
        group_of = [(row // group_h, column // group_w) for row, column in padded]
        place_of = [(row % group_h, column % group_w) for row, column in padded]
        distant = self._distant(x)
        long_hop = self.long_range.attention.attend(distant.flatten(0, 2), distant.flatten(0, 2), group_of)
        long = long_hop.rows.unflatten(0, distant.shape[:3])  # b y x q i j: every place asks for each query's group
        mixed = self.long_range(distant.flatten(0, 2)).unflatten(0, distant.shape[:3])
        neighbours = mixed.permute(0, 4, 5, 3, 1, 2)  # b i j c y x
        short_hop = self.short_range.attention.attend(neighbours.flatten(0, 2), neighbours.flatten(0, 2), place_of)
        short = short_hop.rows.unflatten(0, neighbours.shape[:3])  # b i j q y x
        first, second = long.new_zeros(2, *long.shape[:1], len(pixels), *neighbours.shape[1:3], *self.group_hw)
        for q, ((i, j), (y, x_place)) in enumerate(zip(group_of, place_of, strict=True)):
            first[:, q, :, :, y, x_place] = long[:, y, x_place, q]
            second[:, q, i, j] = short[:, i, j, q]
        own_group = second.sum(dim=(2, 3))  # b q y x
        routing = torch.einsum("bqyx,byxqij->bqijyx", own_group, long)

        def on_map(groups: Tensor) -> Tensor:
            return self._without_padding(groups.permute(0, 1, 2, 4, 3, 5), x)

        mixed_map = self._without_padding(mixed.permute(0, 3, 4, 1, 5, 2), x)
        hops = [
            Hop(on_map(first), self.long_range.attention.value(x), is_signed=False, name="hop 1"),
            Hop(on_map(second), self.short_range.attention.value(mixed_map), is_signed=False, name="hop 2"),
        ]
        return AttentionRows(hops, on_map(routing))

    def _padding(self, x: Tensor) -> tuple[int, int, int, int]:
        """Returns the rows and columns of zeros above, left, below and right of x."""
        pad_h, pad_w = (-length % group for length, group in zip(x.shape[2:], self.group_hw, strict=True))
        return pad_h // 2, pad_w // 2, pad_h - pad_h // 2, pad_w - pad_w // 2

    def _distant(self, x: Tensor) -> Tensor:
        """Groups positions of x `b c h w` at the same place of all groups, `b y x c i j`.

        i j: row and column of the group; y x: row and column inside it.
        """
        group_h, group_w = self.group_hw
        top, left, bottom, right = self._padding(x)
        padded = F.pad(x, (left, right, top, bottom))
        groups = padded.unflatten(3, (-1, group_w)).unflatten(2, (-1, group_h))  # b c i y j x
        return groups.permute(0, 3, 5, 1, 2, 4)

    def _without_padding(self, groups: Tensor, x: Tensor) -> Tensor:
        """Maps `b c i y j x` to `b c h w`, the size of x."""
        top, left, _, _ = self._padding(x)
        return groups.flatten(4, 5).flatten(2, 3)[:, :, top : top + x.shape[2], left : left + x.shape[3]]


HEAD = ISAHead
