"""FCN-style head layout, convolution - context block - convolution, shared by fcn, non_local, rcca, dnl and gc."""

from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import ChannelCount, SmallCount
from segnl.models.blocks.conv import ConvNormAct, NormActConfig


class ConvContextConvConfig(NormActConfig):
    """Settings of the layout; the defaults are those of CCNet and mmsegmentation."""

    channels: ChannelCount = 512
    num_convs: int = Field(2, ge=0, le=256)
    """Number of convolutions before the concatenation; the context block follows the first."""
    kernel: int = Field(3, ge=1, le=63)
    dilation: SmallCount = 1
    """Dilation of those convolutions; the one after the concatenation is not dilated."""
    concat_input: bool = True
    """Concatenates the input stage before a last convolution."""
    last_channels: ChannelCount | None = None
    """Channels after the last convolution; null: as `channels`."""


class ConvContextConv(nn.Module):
    """convs.0, the context block, convs.1 ..., then conv_cat on the concatenation of the input and the result.

    Module paths, and with them initial weights, do not depend on the context block.
    """

    def __init__(self, cfg: ConvContextConvConfig, in_channels: int, context: nn.Module) -> None:
        super().__init__()
        if cfg.num_convs == 0 and in_channels != cfg.channels:
            raise ValueError(f"channels: {cfg.channels}; without convolutions expected the stage's {in_channels}")
        conv = partial(ConvNormAct, kernel=cfg.kernel, has_norm=cfg.has_norm, leaky_slope=cfg.leaky_slope)
        self.convs = nn.ModuleList(
            conv(cfg.channels if index else in_channels, cfg.channels, dilation=cfg.dilation)
            for index in range(cfg.num_convs)
        )
        self.context = context
        self.conv_cat: ConvNormAct | None = None
        self.out_channels = cfg.channels
        if cfg.concat_input:
            self.out_channels = cfg.last_channels or cfg.channels
            self.conv_cat = conv(in_channels + cfg.channels, self.out_channels)

    def before_context(self, x: Tensor) -> Tensor:
        """Maps a stage `b c h w` to the context block's input `b d h w`."""
        return self.convs[0](x) if self.convs else x

    def forward(self, x: Tensor) -> Tensor:
        """Maps a stage `b c h w` to `b d h w`."""
        out = self.context(self.before_context(x))
        for conv in self.convs[1:]:
            out = conv(out)
        return out if self.conv_cat is None else self.conv_cat(torch.cat([x, out], dim=1))
