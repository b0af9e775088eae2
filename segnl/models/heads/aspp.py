"""Atrous spatial pyramid pooling: parallel dilated convolutions and the image's mean.

Source: DeepLabV3, Chen et al. 2017, arXiv:1706.05587.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import ChannelCount, SmallCount
from segnl.models.blocks.conv import NormActConfig, parallel_maps
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput


class ASPPConfig(HeadConfig, NormActConfig):
    """Settings of the head; the defaults are mmsegmentation's.

    For the form of torchvision and the paper: channels 256, project_kernel 1, has_last_conv true; torchvision also has
    project_dropout 0.5 and model.dropout 0.
    """

    name: str = "aspp"
    channels: ChannelCount = 512
    dilations: tuple[SmallCount, ...] = Field((1, 12, 24, 36), min_length=1, max_length=64)
    """Dilation of each branch; 1 is a 1x1 convolution. For output stride 16 the paper has (1, 6, 12, 18)."""
    project_kernel: int = Field(3, ge=1, le=63)
    """Kernel of the convolution that joins the branches."""
    project_channels: ChannelCount | None = None
    """Channels after that convolution; null: as `channels`."""
    project_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout of single elements after that convolution."""
    has_last_conv: bool = False
    """Adds a 3x3 convolution at the end."""


class ASPPHead(ContextHead):
    """Branches in the order [image mean, dilations ...], concatenated and projected."""

    Config = ASPPConfig

    def __init__(self, cfg: ASPPConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        self.image_pool = cfg.conv(self.in_channels, cfg.channels, 1, is_pooled=True)
        self.branches = nn.ModuleList(
            cfg.conv(self.in_channels, cfg.channels, 1 if dilation == 1 else 3, dilation=dilation)
            for dilation in cfg.dilations
        )
        self.out_channels = cfg.project_channels or cfg.channels
        self.project = cfg.conv((len(cfg.dilations) + 1) * cfg.channels, self.out_channels, cfg.project_kernel)
        self.project_dropout = cfg.project_dropout
        self.last_conv = cfg.conv(self.out_channels, self.out_channels, 3) if cfg.has_last_conv else nn.Identity()

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5 to the context `b d h w`."""
        x = self.concat_stages(stages)
        maps = parallel_maps(x, self.image_pool, self.branches)
        out = F.dropout(self.project(maps), self.project_dropout, self.training)
        return HeadOutput(self.last_conv(out))


HEAD = ASPPHead
