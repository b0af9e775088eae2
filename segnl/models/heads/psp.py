"""Pyramid pooling: the stage concatenated with its means over grids of several sizes.

Source: PSPNet, Zhao et al. 2017, arXiv:1612.01105.
"""

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from segnl.core.config import ChannelCount, SmallCount
from segnl.models.blocks.conv import NormActConfig
from segnl.models.blocks.pyramid_pooling import pool_pyramid, pyramid_pooling
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput


class PSPConfig(HeadConfig, NormActConfig):
    """Settings of the head."""

    name: str = "psp"
    channels: ChannelCount = 512
    """Channels of every level and of the result; in the paper the levels together have the stage's channels."""
    bins: tuple[SmallCount, ...] = Field((1, 2, 3, 6), min_length=1, max_length=16)
    """Rows, and columns, of each level's grid."""


class PSPHead(ContextHead):
    """1x1 convolution and resizing of every level; a 3x3 convolution joins stage and levels."""

    Config = PSPConfig

    def __init__(self, cfg: PSPConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        self.bins = cfg.bins
        self.levels, self.join = pyramid_pooling(cfg, self.in_channels, cfg.channels, cfg.bins)
        self.out_channels = cfg.channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5 to the context `b d h w`."""
        x = self.concat_stages(stages)
        return HeadOutput(pool_pyramid(x, self.levels, self.join, self.bins, align_corners=self.align_corners))


HEAD = PSPHead
