"""Criss-cross attention as batched products over rows and over columns; benchmarks/ops.py measures it.

Images are computed one after another, small ones in groups (benchmarks/criss_cross_small.py). A single image is read as
one channels-last map, so nothing is copied but a channels-first input, once; the columns of a group are copied. Scores
and weights are `h w (w + h)` an image; backward keeps those and the inputs. A GPU kernel for `criss_cross` and
`criss_cross_backward` can be registered without touching a caller (ops/library.py).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from segnl.ops.arguments import accumulation_dtype, with_adjacent_channels
from segnl.ops.library import differentiate_by, operator

GROUP_NUMBERS = 2**17
"""Largest number of weights and values in a group of images, which then stays in a core's cache."""


@operator(
    "criss_cross(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)",
    shapes=lambda q, k, v: _empty_results(q, v),
    flops=lambda q, k, v: 2 * math.prod(q[:3]) * (q[1] + q[2]) * (q[3] + v[3]),
)
def criss_cross(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the context `b h w d` and the weights `b h w (w + h)` of q, k `b h w c` and v `b h w d`."""
    weights = _empty_results(q, v)[1]
    dtype = weights.dtype
    out = torch.empty(v.shape, dtype=dtype, device=v.device)
    with torch.autocast(q.device.type, enabled=False):
        for images in _groups(weights, v):
            query, key, value = (with_adjacent_channels(x[images].to(dtype)) for x in (q, k, v))
            _pairwise(weights[images], query, key)
            row_weights, column_weights = _row_and_column(weights[images])
            # The row holds the position already; masked in the column, it counts once.
            column_weights.diagonal(dim1=2, dim2=3).fill_(-torch.inf)
            torch.softmax(weights[images], dim=-1, out=weights[images])
            _weighted_sum(out[images], row_weights, column_weights, value)
    return out.to(v.dtype), weights


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
    grad_q, grad_k, grad_v = (torch.empty(x.shape, dtype=dtype, device=x.device) for x in (q, k, v))
    with torch.autocast(q.device.type, enabled=False):
        for images in _groups(weights, v):
            query, key, value, grad_output = (with_adjacent_channels(x[images].to(dtype)) for x in (q, k, v, grad))
            row_weights, column_weights = _row_and_column(weights[images])
            _weighted_sum(grad_v[images], row_weights.mT, column_weights.mT, grad_output)
            grad_weights = torch.empty_like(weights[images])  # b h w (w + h): grad_output . value
            _pairwise(grad_weights, grad_output, value)
            # Softmax's gradient; the masked weight is 0, so nothing flows there.
            scores = torch.ops.aten._softmax_backward_data(grad_weights, weights[images], -1, dtype)
            row_weights, column_weights = _row_and_column(scores)
            _weighted_sum(grad_q[images], row_weights, column_weights, key)
            _weighted_sum(grad_k[images], row_weights.mT, column_weights.mT, query)
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


differentiate_by(criss_cross, criss_cross_backward, saved_outputs=(1,))


def _empty_results(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    b, h, w, _ = q.shape
    return v.new_empty(v.shape), q.new_empty(b, h, w, w + h, dtype=accumulation_dtype(v.dtype))


def _groups(weights: Tensor, v: Tensor) -> Iterator[slice]:
    """Yields the images of a batch in groups; larger images, for which a copy costs more than a call, one by one."""
    numbers = weights[0].numel() + v[0].numel()
    size = max(1, GROUP_NUMBERS // numbers)
    for first in range(0, len(v), size):
        yield slice(first, first + size)


def _row_and_column(slots: Tensor) -> tuple[Tensor, Tensor]:
    """Splits `b h w (w + h)` into views of the row's entries, `b h w w`, and the column's, `b w h h`."""
    width = slots.shape[2]
    return slots[..., :width], slots[..., width:].transpose(1, 2)


def _by_column(x: Tensor) -> Tensor:
    """Returns `b h w c` as columns, `(b w) h c`: a view of one image, a copy of several."""
    return x.transpose(1, 2).flatten(0, 1)


def _pairwise(slots: Tensor, a: Tensor, b: Tensor) -> None:
    """Writes a . b, `b h w c` each, of the pairs in a row and in a column into slots `b h w (w + h)`."""
    row, column = _row_and_column(slots)
    torch.bmm(a.flatten(0, 1), b.flatten(0, 1).mT, out=row.view(-1, *row.shape[2:]))
    column.copy_(torch.bmm(_by_column(a), _by_column(b).mT).view(column.shape))


def _weighted_sum(out: Tensor, row_weights: Tensor, column_weights: Tensor, values: Tensor) -> None:
    """Writes row_weights `b h w w` times rows of values, `b h w d`, plus column_weights `b w h h` times its columns."""
    torch.bmm(row_weights.flatten(0, 1), values.flatten(0, 1), out=out.view(-1, *out.shape[2:]))
    columns = _by_column(out).baddbmm_(column_weights.flatten(0, 1), _by_column(values))
    if columns.data_ptr() != out.data_ptr():
        out.transpose(1, 2).copy_(columns.view(column_weights.shape[:3] + out.shape[3:]))
