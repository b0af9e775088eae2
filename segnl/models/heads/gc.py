"""Global context head: one summary of the whole image, added to every position.

Source: GCNet, Cao et al. 2019, arXiv:1904.11492.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segnl.core.config import ChannelCount, Config
from segnl.models.blocks.attention_rows import AttentionRows, Hop, Pixel, shared_rows
from segnl.models.blocks.conv import ZeroConv2d
from segnl.models.heads.base import ConvContextConvHead, ConvContextConvHeadConfig
from segnl.ops.context import region_context


class GlobalContextConfig(Config):
    """Settings of the block."""

    inner_channels: ChannelCount | None = None
    """Channels between the transform's two convolutions; null: a quarter of `channels`."""
    pooling: Literal["attention", "mean"] = "attention"
    """Weights of positions in the summary: softmax of a learned score (attention), or equal (mean)."""
    fusion: Literal["add", "multiply", "both"] = "add"
    """Adds the transformed summary to every position, or multiplies by its sigmoid. both: with a transform for each,
    multiplication first."""


class GCHeadConfig(ConvContextConvHeadConfig, GlobalContextConfig):
    """Settings of the head."""

    name: str = "gc"


class GlobalContextBlock(nn.Module):
    """Block x + transform(sum_j softmax_j(w . x_j) x_j): a non-local block with one query for all positions.

    The transform starts at 0, so a new block with `add` is the identity; with `multiply` it halves x.
    """

    def __init__(self, channels: int, cfg: GlobalContextConfig) -> None:
        super().__init__()
        inner = cfg.inner_channels or max(1, channels // 4)
        self.unary = nn.Conv2d(channels, 1, 1) if cfg.pooling == "attention" else None
        self.multiply = _transform(channels, inner) if cfg.fusion in ("multiply", "both") else None
        self.add = _transform(channels, inner) if cfg.fusion in ("add", "both") else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps x `b c h w` to the same shape."""
        if self.unary is None:
            summary = x.mean(dim=(2, 3), keepdim=True)  # b c 1 1
        else:
            summary = region_context(self.unary(x).flatten(2), x.flatten(2))[..., None]
        out = x
        if self.multiply is not None:
            out = out * self.multiply(summary).sigmoid()
        return out if self.add is None else out + self.add(summary)

    def attend(self, x: Tensor, pixels: Sequence[Pixel]) -> AttentionRows:
        """Returns the attention weights of x `b c h w`, which are the same for every pixel."""
        scores = torch.zeros_like(x[:, :1]) if self.unary is None else self.unary(x)  # b 1 h w
        return AttentionRows([Hop(shared_rows(scores, len(pixels)), x, is_signed=False, name="shared")])


def _transform(channels: int, inner: int) -> nn.Sequential:
    reduce, widen = nn.Conv2d(channels, inner, 1), ZeroConv2d(inner, channels, 1)
    return nn.Sequential(reduce, nn.LayerNorm([inner, 1, 1]), nn.ReLU(), widen)


class GCHead(ConvContextConvHead):
    """FCN-style head around the block; a new one that adds computes the same as `fcn`."""

    Config = GCHeadConfig

    def __init__(self, cfg: GCHeadConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes, GlobalContextBlock(cfg.channels, cfg))


HEAD = GCHead
