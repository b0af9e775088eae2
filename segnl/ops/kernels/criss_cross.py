"""Criss-cross attention as batched products over rows and over columns; benchmarks/ops.py measures it.

Both read one channels-last map, so nothing is copied but a channels-first input, once. Scores and weights are
`h w (w + h)`; backward keeps those and the inputs. A GPU kernel for `criss_cross` and `criss_cross_backward` can be
registered without touching a caller (ops/library.py).
"""

from typing import Any

import torch
from torch import Tensor

from segnl.ops.arguments import accumulation_dtype, with_adjacent_channels
from segnl.ops.library import differentiate, flops_of, operator, shapes_of


@operator("criss_cross(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)")
def criss_cross(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the context `b h w d` and the weights `b h w (w + h)` of q, k `b h w c` and v `b h w d`."""
    b, h, w, _ = q.shape
    dtype = accumulation_dtype(v.dtype)
    out = v.new_empty(v.shape)
    weights = q.new_empty(b, h, w, w + h, dtype=dtype)
    with torch.autocast(q.device.type, enabled=False):
        for image in range(b):
            query, key, value = (with_adjacent_channels(x[image].to(dtype)) for x in (q, k, v))
            row_weights, column_weights = _row_and_column(weights[image])
            torch.bmm(query, key.mT, out=row_weights)
            column_weights.copy_(torch.bmm(query.transpose(0, 1), key.transpose(0, 1).mT))
            # The row holds the position already; masked in the column, it counts once.
            column_weights.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
            torch.softmax(weights[image], dim=-1, out=weights[image])
            context = out[image] if out.dtype == dtype else torch.empty_like(value)
            _weighted_sum(context, row_weights, column_weights, value)
            if context.dtype != out.dtype:
                out[image] = context
    return out, weights


@shapes_of(criss_cross)
def _(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    b, h, w, _ = q.shape
    return v.new_empty(v.shape), q.new_empty(b, h, w, w + h, dtype=accumulation_dtype(v.dtype))


@operator("criss_cross_backward(Tensor q, Tensor k, Tensor v, Tensor weights, Tensor grad) -> (Tensor, Tensor, Tensor)")
def criss_cross_backward(
    q: Tensor, k: Tensor, v: Tensor, weights: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the gradients of q, k and v, each contiguous `b h w c`."""
    dtype = weights.dtype
    grads = tuple(x.new_empty(x.shape) for x in (q, k, v))
    with torch.autocast(q.device.type, enabled=False):
        for image in range(q.shape[0]):
            query, key, value, grad_output = (with_adjacent_channels(x[image].to(dtype)) for x in (q, k, v, grad))
            row_weights, column_weights = _row_and_column(weights[image])
            sums = [x[image] if x.dtype == dtype else torch.empty_like(x[image], dtype=dtype) for x in grads]
            _weighted_sum(sums[2], row_weights.mT, column_weights.mT, grad_output)
            grad_weights = torch.empty_like(weights[image])  # h w (w + h): grad_output . value
            grad_row, grad_column = _row_and_column(grad_weights)
            torch.bmm(grad_output, value.mT, out=grad_row)
            grad_column.copy_(torch.bmm(grad_output.transpose(0, 1), value.transpose(0, 1).mT))
            # Softmax's gradient; the masked weight is 0, so nothing flows there.
            scores = torch.ops.aten._softmax_backward_data(grad_weights, weights[image], -1, dtype)
            row_weights, column_weights = _row_and_column(scores)
            _weighted_sum(sums[0], row_weights, column_weights, key)
            _weighted_sum(sums[1], row_weights.mT, column_weights.mT, query)
            for result, total in zip(grads, sums, strict=True):
                if total.dtype != result.dtype:
                    result[image] = total
    return grads[0], grads[1], grads[2]


@shapes_of(criss_cross_backward)
def _(q: Tensor, k: Tensor, v: Tensor, weights: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    grad_q, grad_k, grad_v = criss_cross_backward(*ctx.saved_tensors, grad)
    return grad_q, grad_k, grad_v


differentiate(criss_cross, _backward, _setup_context)


def _row_and_column(slots: Tensor) -> tuple[Tensor, Tensor]:
    """Splits `h w (w + h)` into views of the row's entries, `h w w`, and the column's, `w h h`."""
    width = slots.shape[1]
    return slots[:, :, :width], slots[:, :, width:].transpose(0, 1)


def _weighted_sum(out: Tensor, row_weights: Tensor, column_weights: Tensor, values: Tensor) -> None:
    """Writes row_weights `h w w` times rows of values, `h w d`, plus column_weights `w h h` times its columns."""
    torch.bmm(row_weights, values, out=out)
    out.transpose(0, 1).baddbmm_(column_weights, values.transpose(0, 1))


@flops_of(criss_cross)
def criss_cross_flops(q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    """Counts scores and weighted sum over h + w entries a position: 2 b h w (h + w) (c + d)."""
    b, h, w, c = q_shape
    return int(2 * b * h * w * (h + w) * (c + v_shape[3]))


@flops_of(criss_cross_backward)
def criss_cross_backward_flops(q_shape: Any, *arguments: Any, **__: Any) -> int:
    """Counts the gradients of weights and values, queries and keys: twice the forward's."""
    return 2 * criss_cross_flops(q_shape, *arguments)
