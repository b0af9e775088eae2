"""Decoder without a context block: joins coarse stages with finer ones, level by level.

Source: U-Net, Ronneberger et al. 2015, arXiv:1505.04597.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segnl.core.config import ChannelCount
from segnl.models.blocks.conv import ConvNormAct
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput


class UNetConfig(HeadConfig):
    """Settings of the head; `in_stages` from the finest to the coarsest, such as [0, 1, 2, 3]."""

    name: str = "unet"
    channels: ChannelCount = 64
    """Channels of the finest level; each coarser one has twice as many."""


class UNetHead(ContextHead):
    """One convolution of the coarsest stage; then on each level: resize, concatenate the finer stage, two convolutions.

    Differs from the paper: convolutions keep a map's size and have batch norm; bilinear resizing replaces transposed
    convolutions; the encoder is the backbone.
    """

    Config = UNetConfig

    def __init__(self, cfg: UNetConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        widths = [cfg.channels * 2**level for level in range(len(cfg.in_stages))]
        self.bottom = ConvNormAct(stage_channels[cfg.in_stages[-1]], widths[-1], 3)
        self.levels = nn.ModuleList()
        for level in reversed(range(len(widths) - 1)):
            joined = widths[level + 1] + stage_channels[cfg.in_stages[level]]
            self.levels.append(
                nn.Sequential(ConvNormAct(joined, widths[level], 3), ConvNormAct(widths[level], widths[level], 3))
            )
        self.out_channels = cfg.channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5 to the context `b d h w` of the finest stage's size."""
        x = self.bottom(stages[self.in_stages[-1]])
        for level, stage in zip(self.levels, reversed(self.in_stages[:-1]), strict=True):
            finer = stages[stage]
            x = level(torch.cat([self.resize_to(x, finer), finer], dim=1))
        return HeadOutput(x)


HEAD = UNetHead
