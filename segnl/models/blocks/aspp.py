"""Parallel branches of the DeepLab heads."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def parallel_maps(x: Tensor, image_pool: nn.Module, branches: Iterable[nn.Module]) -> Tensor:
    """Concatenates the image mean and every branch of x `b c h w`: `b (1 + branches)*d h w`, the mean first."""
    # A mean instead of AdaptiveAvgPool, for exported graphs and deterministic CUDA. Upsampled from 1x1 it is constant.
    pooled = image_pool(x.mean(dim=(2, 3), keepdim=True))  # b d 1 1
    return torch.cat([pooled.expand(-1, -1, *x.shape[-2:]), *(branch(x) for branch in branches)], dim=1)
