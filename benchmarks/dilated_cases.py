"""The contestants of the benchmark of dilated convolutions; see dilated.py."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import Case


def build(contestant: str, case: Case) -> Callable[[], object]:
    """Returns a call of one convolution, with the gradients of input and weight if the case is_trained.

    case: batch, channels (in, out), hw, dilation, is_trained.
    """
    from segnl.ops.kernels.dilated_conv import dilated_conv

    torch.manual_seed(0)
    channels, out_channels = case["channels"]
    x = torch.randn(case["batch"], channels, *case["hw"]).bfloat16().to(memory_format=torch.channels_last)
    weight = torch.randn(out_channels, channels, 3, 3).bfloat16().to(memory_format=torch.channels_last)
    dilation, is_trained = case["dilation"], case["is_trained"]
    leaves = [leaf.requires_grad_(is_trained) for leaf in (x, weight)]

    def forward() -> torch.Tensor:
        if contestant == "segnl":
            return dilated_conv(x, weight, dilation)
        return F.conv2d(x, weight, padding=dilation, dilation=dilation)

    if not is_trained:
        return forward
    grad_output = torch.randn_like(forward())
    return lambda: torch.autograd.grad(forward(), leaves, grad_output)
