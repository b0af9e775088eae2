"""Attention to a few bases that expectation maximisation finds in the image; unrelated to `train.ema` of the weights.

Source: EMANet, Li et al. 2019, arXiv:1907.13426.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import ChannelCount, SmallCount
from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup
from segnl.models.blocks.conv import KaimingConv2d, NormActConfig
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput
from segnl.ops.context import expectation_context


class EMAConfig(HeadConfig, NormActConfig):
    """Settings of the head."""

    name: str = "ema"
    channels: ChannelCount = 256
    inner_channels: ChannelCount | None = None
    """Channels of the map that the bases reconstruct; null: twice `channels`."""
    num_bases: ChannelCount = 64
    num_steps: SmallCount = 3
    """Number of expectation-maximisation steps."""
    momentum: float = Field(0.1, ge=0.0, le=1.0)
    """Step of the bases' moving average towards those of a batch."""
    concat_input: bool = True
    """Concatenates the input stage before a last convolution."""


class Bases(nn.Module):
    """Reconstruction of a map from bases, which start every image at their moving average over training.

    Differs from the paper: the moving average is taken over the images of all ranks.
    """

    bases: Tensor
    group: ProcessGroup = SINGLE_PROCESS
    """The trainer sets it."""

    def __init__(self, channels: int, cfg: EMAConfig) -> None:
        super().__init__()
        self.num_steps, self.momentum = cfg.num_steps, cfg.momentum
        self.register_buffer("bases", torch.empty(1, channels, cfg.num_bases))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws random directions of length 1."""
        self.bases.copy_(F.normalize(torch.randn_like(self.bases), dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps x `b c h w` to the same shape without a gradient; updates the moving average in training."""
        bases = self.bases.expand(x.shape[0], -1, -1)
        rebuilt, image_bases = expectation_context(x.flatten(2), bases, num_steps=self.num_steps)
        if self.training:
            total = self.group.all_reduce_sum(image_bases.sum(dim=0, keepdim=True))  # its direction is the mean's
            self.bases.lerp_(F.normalize(total, dim=1), self.momentum)
        return rebuilt.unflatten(2, x.shape[2:])


class EMAHead(ContextHead):
    """3x3 convolution, its reconstruction from bases added, then 3x3 convolutions.

    The reconstruction passes a 1x1 convolution with a norm, without activation, before the addition. The one before
    the bases gets no gradient and keeps its initial values.
    """

    Config = EMAConfig

    def __init__(self, cfg: EMAConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        inner = cfg.inner_channels or 2 * cfg.channels
        self.reduce = cfg.conv(self.in_channels, inner, 3)
        self.before = KaimingConv2d(inner, inner, 1).requires_grad_(False)
        self.rebuild = Bases(inner, cfg)
        self.after = cfg.conv(inner, inner, 1, leaky_slope=1.0)
        self.narrow = cfg.conv(inner, cfg.channels, 3)
        self.conv_cat = cfg.conv(self.in_channels + cfg.channels, cfg.channels, 3) if cfg.concat_input else None
        self.out_channels = cfg.channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5 to the context `b d h w`."""
        x = self.concat_stages(stages)
        reduced = self.reduce(x)
        rebuilt = self.after(self.rebuild(self.before(reduced)).relu())
        out = self.narrow((reduced + rebuilt).relu())
        return HeadOutput(out if self.conv_cat is None else self.conv_cat(torch.cat([x, out], dim=1)))


HEAD = EMAHead
