"""Dilated 3x3 convolution of a map padded beforehand, for bfloat16 on the CPU; benchmarks/dilated.py measures it.

With a dilation and many channels, as in ASPP, oneDNN uses a slow bfloat16 kernel unless the map is padded beforehand,
and its gradient of the weight multiplies all zeros of the padding.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.ops.library import differentiate, operator


@operator(
    "dilated_conv(Tensor x, Tensor weight, int dilation) -> Tensor",
    shapes=lambda x, weight, dilation: F.conv2d(x, weight, padding=dilation, dilation=dilation),
    # As torch counts a convolution, products with the padding included.
    flops=lambda x, weight, dilation: 2 * x[0] * x[2] * x[3] * math.prod(weight),
)
def dilated_conv(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Computes F.conv2d(x, weight, padding=dilation, dilation=dilation): x `b c h w`, weight `d c 3 3` -> `b d h w`.

    The gradient of the weight is nine products, one for each pixel of the kernel. The forward holds a padded copy of x,
    `b c h+2*dilation w+2*dilation`.
    """
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(F.pad(x, [dilation] * 4), weight, dilation=dilation)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.dilation = inputs[2]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight = ctx.saved_tensors
    wants_x, wants_weight, _ = ctx.needs_input_grad
    # For small dilations, whose padding is thin, torch's own gradient of the weight is the faster one.
    is_ninefold = wants_weight and 8 * ctx.dilation >= min(x.shape[2:])
    padding = [ctx.dilation] * 2
    output_mask = [wants_x, wants_weight and not is_ninefold, False]
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], padding, padding, False, [0, 0], 1, output_mask
    )
    return grad_x, _nine_products(grad, x, ctx.dilation) if is_ninefold else grad_weight, None


differentiate(dilated_conv, _backward, _setup_context)


def _nine_products(grad: Tensor, x: Tensor, dilation: int) -> Tensor:
    """Computes the gradient of the weight, `d c 3 3`, each pixel from the positions inside the map that it connects."""
    grad, x = (y.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1) for y in (grad, x))  # b h w c
    products = grad.new_zeros(3, 3, grad.shape[3], x.shape[3])
    for i, out_rows, in_rows in _overlaps(x.shape[1], dilation):
        for j, out_columns, in_columns in _overlaps(x.shape[2], dilation):
            grad_output, inputs = grad[:, out_rows, out_columns], x[:, in_rows, in_columns]
            torch.mm(grad_output.flatten(0, 2).t(), inputs.flatten(0, 2), out=products[i, j])
    return products.permute(2, 3, 0, 1)


def _overlaps(size: int, dilation: int) -> Iterator[tuple[int, slice, slice]]:
    """Yields each kernel index with inputs inside a side of the map, and the slices of its outputs and inputs."""
    for index, shift in enumerate((-dilation, 0, dilation)):
        if abs(shift) < size:
            yield index, slice(max(0, -shift), size - max(0, shift)), slice(max(0, shift), size - max(0, -shift))
