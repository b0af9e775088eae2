"""Dilated 3x3 convolution that keeps the map's size: torch's, but in bfloat16 on the CPU where torch's is slow."""

import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.ops.arguments import agree, is_exporting, only_reverse_mode
from segnl.ops.kernels.dilated_conv import dilated_conv

SLOW_CHANNELS = 1536
"""Input channels from which on, with a dilation of at least 3, oneDNN's bfloat16 kernel is slow (maps of 32 to 97)."""


def dilated_conv2d(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Convolves x `b c h w` with weight `d c 3 3`, padded by `dilation` zeros on every side: `b d h w`.

    Where the CPU's kernel is used, the result can be differentiated once.
    """
    if _is_slow_in_torch(x, dilation) and not is_exporting():
        x, weight = agree(("x", x, "b c h w"), ("weight", weight, "d c i j"))
        only_reverse_mode("dilated_conv2d", x, weight)
        out: Tensor = dilated_conv(x, weight, dilation)
        return out
    return F.conv2d(x, weight, padding=dilation, dilation=dilation)


def _is_slow_in_torch(x: Tensor, dilation: int) -> bool:
    if x.device.type != "cpu" or dilation < 3 or x.shape[1] < SLOW_CHANNELS:
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return x.dtype != torch.float64 and dtype == torch.bfloat16
