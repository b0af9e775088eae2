"""SegFormer's decoder: each stage by one linear layer, all resized to the finest, joined by another.

Source: SegFormer, Xie et al. 2021, arXiv:2105.15203, section 3.2. As in the authors' code, a norm and an activation
follow the joining layer only, and the coarsest stage comes first in the concatenation.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import ChannelCount
from segnl.models.blocks.conv import KaimingConv2d, NormActConfig
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput, Stage


class SegFormerMLPConfig(HeadConfig, NormActConfig):
    """Settings of the head; `in_stages` from the finest to the coarsest."""

    name: str = "segformer_mlp"
    in_stages: tuple[Stage, ...] = Field((0, 1, 2, 3), max_length=64, min_length=1)
    channels: ChannelCount = 256
    """Channels of each stage's layer and of the result: 256 in SegFormer-B0 and B1, 768 in larger ones."""


class SegFormerMLPHead(ContextHead):
    """Linear layers alone: the context is what the backbone's stages have gathered."""

    Config = SegFormerMLPConfig

    def __init__(self, cfg: SegFormerMLPConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        self.layers = nn.ModuleList(KaimingConv2d(stage_channels[stage], cfg.channels, 1) for stage in cfg.in_stages)
        self.join = cfg.conv(len(cfg.in_stages) * cfg.channels, cfg.channels, 1)
        self.out_channels = cfg.channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5 to the context `b d h w` of the finest stage's size."""
        maps = [layer(stages[stage]) for layer, stage in zip(self.layers, self.in_stages, strict=True)]
        return HeadOutput(self.join(torch.cat([self.resize_to(x, maps[0]) for x in reversed(maps)], dim=1)))


HEAD = SegFormerMLPHead
