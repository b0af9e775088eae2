"""Atrous spatial pyramid pooling with separable convolutions, and a decoder with a finer stage for sharp edges.

Source: DeepLabV3+, Chen et al. 2018, arXiv:1802.02611.
"""

from collections.abc import Sequence
from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import ChannelCount, SmallCount
from segnl.models.blocks.conv import ConvNormAct, NormActConfig, SeparableConvNormAct, parallel_maps
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput, channels_of


class DeepLabV3PlusConfig(HeadConfig, NormActConfig):
    """Settings of the head; the defaults are mmsegmentation's (the paper has 256 channels)."""

    name: str = "deeplabv3plus"
    low_stage: int | None = Field(0, ge=0, le=3)
    """Finer stage, whose size the result has, 0 = c2; null: none."""
    channels: ChannelCount = 512
    dilations: tuple[SmallCount, ...] = Field((1, 12, 24, 36), min_length=1, max_length=64)
    """Dilation of each branch; 1 is a 1x1 convolution. For output stride 16 the paper has (1, 6, 12, 18)."""
    low_channels: ChannelCount = 48
    """Channels to which the finer stage is reduced."""


class DeepLabV3PlusHead(ContextHead):
    """Branches in the order [image mean, dilations ...], projected, then decoded with the finer stage."""

    Config = DeepLabV3PlusConfig

    def __init__(self, cfg: DeepLabV3PlusConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        separable_conv = partial(SeparableConvNormAct, has_norm=cfg.has_norm, leaky_slope=cfg.leaky_slope)
        channels, low_channels = cfg.channels, 0
        self.image_pool = cfg.conv(self.in_channels, channels, 1, is_pooled=True)
        self.branches = nn.ModuleList(
            cfg.conv(self.in_channels, channels, 1)
            if dilation == 1
            else separable_conv(self.in_channels, channels, 3, dilation=dilation)
            for dilation in cfg.dilations
        )
        self.project = cfg.conv((len(cfg.dilations) + 1) * channels, channels, 3)
        self.low_stage = cfg.low_stage
        self.low: ConvNormAct | None = None
        if cfg.low_stage is not None:
            low_channels = cfg.low_channels
            self.low = cfg.conv(channels_of(cfg.low_stage, stage_channels, key="low_stage"), low_channels, 1)
        self.decode = nn.Sequential(
            separable_conv(channels + low_channels, channels, 3),
            separable_conv(channels, channels, 3),
        )
        self.out_channels = channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5 to the context `b d h w` of the finer stage's size."""
        x = self.project(parallel_maps(self.concat_stages(stages), self.image_pool, self.branches))
        if self.low is not None and self.low_stage is not None:
            low = self.low(stages[self.low_stage])
            x = torch.cat([self.resize_to(x, low), low], dim=1)
        return HeadOutput(self.decode(x))


HEAD = DeepLabV3PlusHead
