"""A global context block in the shell: one summary of the whole image, added to every position.

Source: GCNet, Cao et al. 2019, arXiv:1904.11492.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segnl.core.config import ChannelCount, Config
from segnl.models.blocks.attention_rows import AttentionRows, Hop
from segnl.models.blocks.conv import ZeroConv2d
from segnl.models.heads.base import ConvContextConvHead, ConvContextConvHeadConfig
from segnl.ops.regions import region_context


class GlobalContextConfig(Config):
    """Settings of the block."""

    inner_channels: ChannelCount | None = None
    """Between the transform's two convolutions; null: a quarter of `channels`."""
    pooling: Literal["attention", "mean"] = "attention"
    """How positions are weighed in the summary: by one learned score each, or all alike."""
    fusion: Literal["add", "multiply", "both"] = "add"
    """What the transformed summary does to every position: it is added, or its sigmoid multiplies. both: with a
    transform each, multiplied first."""


class GCHeadConfig(ConvContextConvHeadConfig, GlobalContextConfig):
    """Settings of the head."""

    name: str = "gc"


class GlobalContextBlock(nn.Module):
    """x + transform(sum_j softmax_j(w . x_j) x_j): a non-local block whose every position asks the same.

    The transform ends with zeros, so a new block that adds is the identity (one that multiplies halves).
    """

    def __init__(self, channels: int, cfg: GlobalContextConfig) -> None:
        super().__init__()
        inner = cfg.inner_channels or max(1, channels // 4)
        self.unary = nn.Conv2d(channels, 1, 1) if cfg.pooling == "attention" else None
        self.multiply = _transform(channels, inner) if cfg.fusion in ("multiply", "both") else None
        self.add = _transform(channels, inner) if cfg.fusion in ("add", "both") else None

    def forward(self, x: Tensor) -> Tensor:
        """x `b c h w`. Returns the same shape."""
        if self.unary is None:
            summary = x.mean(dim=(2, 3), keepdim=True)  # b c 1 1
        else:
            summary = region_context(self.unary(x).flatten(2), x.flatten(2))[..., None]
        out = x
        if self.multiply is not None:
            out = out * self.multiply(summary).sigmoid()
        return out if self.add is None else out + self.add(summary)

    def attend(self, x: Tensor, pixel: tuple[int, int]) -> AttentionRows:
        """The one row that every position of x `b c h w` has, whichever `pixel` is."""
        scores = torch.zeros_like(x[:, 0]) if self.unary is None else self.unary(x)[:, 0]  # b h w
        return AttentionRows([Hop(scores.flatten(1).softmax(dim=-1).view(scores.shape), x, is_signed=False)])


def _transform(channels: int, inner: int) -> nn.Sequential:
    reduce, widen = nn.Conv2d(channels, inner, 1), ZeroConv2d(inner, channels, 1)
    return nn.Sequential(reduce, nn.LayerNorm([inner, 1, 1]), nn.ReLU(), widen)


class GCHead(ConvContextConvHead):
    """A new head that adds computes what `fcn` computes."""

    Config = GCHeadConfig

    def __init__(self, cfg: GCHeadConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes, GlobalContextBlock(cfg.channels, cfg))


HEAD = GCHead
