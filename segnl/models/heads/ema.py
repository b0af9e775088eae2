"""Attention to a few bases that steps of expectation and maximisation find in the image. (Not `train.ema`, the average
of weights.)

Source: EMANet, Li et al. 2019, arXiv:1907.13426.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import ChannelCount, SmallCount
from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup
from segnl.models.blocks.conv import ConvNormAct, HeConv2d, NormActConfig
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput
from segnl.ops.expectation import expectation_context


class EMAConfig(HeadConfig, NormActConfig):
    """Settings of the head."""

    name: str = "ema"
    channels: ChannelCount = 256
    inner_channels: ChannelCount | None = None
    """Of the map that the bases rebuild; null: twice `channels`."""
    num_bases: ChannelCount = 64
    num_steps: SmallCount = 3
    """Of expectation and maximisation."""
    momentum: float = Field(0.1, ge=0.0, le=1.0)
    """How far the kept bases follow a batch's."""
    concat_input: bool = True
    """Whether the stage itself is concatenated before a last convolution."""


class Bases(nn.Module):
    """The map rebuilt from bases, which begin every image where training's moving average of them stands.

    Differs from the paper: with several ranks the average is that of all their images.
    """

    bases: Tensor
    group: ProcessGroup = SINGLE_PROCESS
    """Set by the trainer."""

    def __init__(self, channels: int, cfg: EMAConfig) -> None:
        super().__init__()
        self.num_steps, self.momentum = cfg.num_steps, cfg.momentum
        self.register_buffer("bases", torch.empty(1, channels, cfg.num_bases))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random directions, each of length 1."""
        self.bases.copy_(F.normalize(torch.randn_like(self.bases), dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """x `b c h w`. Returns the same shape, without a gradient; in training the kept bases follow."""
        bases = self.bases.expand(x.shape[0], -1, -1)
        rebuilt, found = expectation_context(x.flatten(2), bases, num_steps=self.num_steps)
        if self.training:
            total = self.group.all_reduce_sum(found.sum(dim=0, keepdim=True))  # its direction is the mean's
            self.bases.lerp_(F.normalize(total, dim=1), self.momentum)
        return rebuilt.unflatten(2, x.shape[2:])


class EMAHead(ContextHead):
    """3x3 convolution to a map and, beside it, what bases rebuild of that; added, and on through 3x3 convolutions.

    What is rebuilt passes a 1x1 convolution with a norm and no activation before it is added. The one before the bases
    keeps its initial values: nothing flows back to it.
    """

    Config = EMAConfig

    def __init__(self, cfg: EMAConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        inner = cfg.inner_channels or 2 * cfg.channels
        conv = partial(ConvNormAct, has_norm=cfg.has_norm, leaky_slope=cfg.leaky_slope)
        self.reduce = conv(self.in_channels, inner, 3)
        self.before = HeConv2d(inner, inner, 1).requires_grad_(False)
        self.rebuild = Bases(inner, cfg)
        self.after = ConvNormAct(inner, inner, 1, has_norm=cfg.has_norm, leaky_slope=1.0)
        self.narrow = conv(inner, cfg.channels, 3)
        self.conv_cat = conv(self.in_channels + cfg.channels, cfg.channels, 3) if cfg.concat_input else None
        self.out_channels = cfg.channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """stages: c2..c5. Returns the context `b d h w`."""
        x = self.gather(stages)
        reduced = self.reduce(x)
        rebuilt = self.after(self.rebuild(self.before(reduced)).relu())
        out = self.narrow((reduced + rebuilt).relu())
        return HeadOutput(out if self.conv_cat is None else self.conv_cat(torch.cat([x, out], dim=1)))


HEAD = EMAHead
