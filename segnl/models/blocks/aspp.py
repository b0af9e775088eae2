"""What the heads of the DeepLab family share."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def parallel_maps(x: Tensor, image_pool: nn.Module, branches: Iterable[nn.Module]) -> Tensor:
    """x `b c h w` through every branch, beside the image's mean: `b (1 + branches) d h w`, the mean first."""
    # A mean, not AdaptiveAvgPool, for exported graphs and deterministic CUDA. Upsampled from 1x1 it is constant.
    pooled = image_pool(x.mean(dim=(2, 3), keepdim=True))  # b d 1 1
    return torch.cat([pooled.expand(-1, -1, *x.shape[-2:]), *(branch(x) for branch in branches)], dim=1)
