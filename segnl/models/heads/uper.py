"""Pyramid pooling of the coarsest stage, then a feature pyramid from coarse to fine.

Source: UPerNet, Xiao et al. 2018, arXiv:1807.10221, section 3.1, its segmentation of objects, as mmsegmentation has it.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import ChannelCount, SmallCount
from segnl.models.blocks.conv import NormActConfig
from segnl.models.blocks.pyramid_pooling import pool_pyramid, pyramid_pooling
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput, Stage


class UPerConfig(HeadConfig, NormActConfig):
    """Settings of the head; `in_stages` from the finest to the coarsest."""

    name: str = "uper"
    in_stages: tuple[Stage, ...] = Field((0, 1, 2, 3), max_length=64, min_length=2)
    channels: ChannelCount = 512
    """Channels of every level and of the result."""
    bins: tuple[SmallCount, ...] = Field((1, 2, 3, 6), min_length=1, max_length=16)
    """Rows, and columns, of each grid of the pyramid pooling."""


class UPerHead(ContextHead):
    """Each finer level is a 1x1 convolution of its stage plus the coarser level; 3x3 convolutions join all levels."""

    Config = UPerConfig

    def __init__(self, cfg: UPerConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        *finer, coarsest = cfg.in_stages
        self.bins = cfg.bins
        self.pool_levels, self.pool_join = pyramid_pooling(cfg, stage_channels[coarsest], cfg.channels, cfg.bins)
        self.laterals = nn.ModuleList(cfg.conv(stage_channels[stage], cfg.channels, 1) for stage in finer)
        self.levels = nn.ModuleList(cfg.conv(cfg.channels, cfg.channels, 3) for _ in finer)
        self.join = cfg.conv(len(cfg.in_stages) * cfg.channels, cfg.channels, 3)
        self.out_channels = cfg.channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5 to the context `b d h w` of the finest stage's size."""
        x = stages[self.in_stages[-1]]
        coarser = pool_pyramid(x, self.pool_levels, self.pool_join, self.bins, align_corners=self.align_corners)
        outputs = [coarser]
        for index in reversed(range(len(self.laterals))):
            lateral = self.laterals[index](stages[self.in_stages[index]])
            coarser = lateral + self.resize_to(coarser, lateral)
            outputs.insert(0, self.levels[index](coarser))
        return HeadOutput(self.join(torch.cat([self.resize_to(x, outputs[0]) for x in outputs], dim=1)))


HEAD = UPerHead
