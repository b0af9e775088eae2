"""Pyramid pooling (PSPNet, Zhao et al. 2017, arXiv:1612.01105), for the heads psp and uper."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segnl.models.blocks.conv import NormActConfig
from segnl.ops.context import pyramid_means
from segnl.ops.resize import resize


def pyramid_pooling(
    cfg: NormActConfig, in_channels: int, channels: int, bins: Sequence[int]
) -> tuple[nn.ModuleList, nn.Module]:
    """Returns a 1x1 convolution for each grid of means, and the 3x3 convolution that joins the map and the grids."""
    levels = nn.ModuleList(cfg.conv(in_channels, channels, 1, is_pooled=True) for _ in bins)
    return levels, cfg.conv(in_channels + len(bins) * channels, channels, 3)


def pool_pyramid(
    x: Tensor, levels: nn.ModuleList, join: nn.Module, bins: Sequence[int], *, align_corners: bool
) -> Tensor:
    """Maps x `b c h w` to `b d h w`: x, and its means over each grid, resized to x's size, joined."""
    means = pyramid_means(x, tuple(bins)).split([s * s for s in bins], dim=2)
    grids = [mean.unflatten(2, (s, s)) for mean, s in zip(means, bins, strict=True)]  # b c s s
    hw = (x.shape[-2], x.shape[-1])
    maps = [resize(level(grid), hw, align_corners=align_corners) for level, grid in zip(levels, grids, strict=True)]
    out: Tensor = join(torch.cat([x, *maps], dim=1))
    return out
