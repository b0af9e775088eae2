"""Criss-cross attention as batched products over rows and over columns; benchmarks/ops.py measures it.

Both read one channels-last map, so nothing is copied but a channels-first input, once. Scores and weights are
`h w (w + h)`; backward keeps those and the inputs. A GPU kernel for `criss_cross` and `criss_cross_backward` can be
registered without touching a caller (ops/library.py).
"""

import math

import torch
from torch import Tensor

from segnl.ops.arguments import accumulation_dtype, with_adjacent_channels
from segnl.ops.library import differentiate_by, operator


@operator(
    "criss_cross(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)",
    shapes=lambda q, k, v: _empty_results(q, v),
    flops=lambda q, k, v: 2 * math.prod(q[:3]) * (q[1] + q[2]) * (q[3] + v[3]),
)
def criss_cross(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the context `b h w d` and the weights `b h w (w + h)` of q, k `b h w c` and v `b h w d`."""
    out, weights = _empty_results(q, v)
    dtype = weights.dtype
    with torch.autocast(q.device.type, enabled=False):
        for image in range(q.shape[0]):
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


@operator(
    "criss_cross_backward(Tensor q, Tensor k, Tensor v, Tensor weights, Tensor grad) -> (Tensor, Tensor, Tensor)",
    shapes=lambda q, k, v, *_: tuple(x.new_empty(x.shape) for x in (q, k, v)),
    # The gradients of weights and values, queries and keys: twice the forward's.
    flops=lambda q, k, v, *_: 4 * math.prod(q[:3]) * (q[1] + q[2]) * (q[3] + v[3]),
)
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


differentiate_by(criss_cross, criss_cross_backward, saved_outputs=(1,))


def _empty_results(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    b, h, w, _ = q.shape
    return v.new_empty(v.shape), q.new_empty(b, h, w, w + h, dtype=accumulation_dtype(v.dtype))


def _row_and_column(slots: Tensor) -> tuple[Tensor, Tensor]:
    """Splits `h w (w + h)` into views of the row's entries, `h w w`, and the column's, `w h h`."""
    width = slots.shape[1]
    return slots[:, :, :width], slots[:, :, width:].transpose(0, 1)


def _weighted_sum(out: Tensor, row_weights: Tensor, column_weights: Tensor, values: Tensor) -> None:
    """Writes row_weights `h w w` times rows of values, `h w d`, plus column_weights `w h h` times its columns."""
    torch.bmm(row_weights, values, out=out)
    out.transpose(0, 1).baddbmm_(column_weights, values.transpose(0, 1))
