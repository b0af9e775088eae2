"""Criss-cross attention: each position's softmax-weighted sum over its row and its column.

Source: CCNet, Huang et al. 2019, arXiv:1811.11721.

Batched products over rows and over columns read one channels-last map each way, so nothing is copied but a
channels-first input, once. Scores and weights are `h w (w + h)`; those and the inputs are all that backward keeps.
A GPU kernel for `criss_cross` and `criss_cross_backward` can be registered without touching a caller (ops/library.py);
none is written yet.
"""

from typing import Any

import torch
from torch import Tensor

from segnl.ops.arguments import accumulation_dtype, agree, is_exporting, only_reverse_mode
from segnl.ops.library import differentiate, flops_of, operator, shapes_of
from segnl.ops.plain import plain_criss_cross_context


def criss_cross_context(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax of query . key over a position's row and column, itself once, times value.

    query, key `b c h w`, value `b d h w`; any memory layout, channels-last is read without a copy. Returns `b d h w` in
    channels-last layout: h + w - 1 positions are looked at for each. No scale is applied. Scores, softmax and sums are
    taken in float32 (float64 for float64), under autocast too. Differentiable once in all three.

    Raises ValueError when shapes, dtypes or devices do not agree, or a map is empty.
    """
    query, key, value = agree(("query", query, "b c h w"), ("key", key, "b c h w"), ("value", value, "b d h w"))
    if is_exporting():
        return plain_criss_cross_context(query, key, value)
    q, k, v = (x.permute(0, 2, 3, 1) for x in (query, key, value))  # b h w c
    only_reverse_mode("criss_cross_context", q, k, v)
    context: Tensor = criss_cross(q, k, v)[0]  # b h w d
    return context.permute(0, 3, 1, 2)


@operator("criss_cross(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)")
def criss_cross(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """q, k `b h w c`, v `b h w d` -> context `b h w d` in v's dtype, weights `b h w (w + h)` as accumulated."""
    b, h, w, _ = q.shape
    dtype = accumulation_dtype(v.dtype)
    out = v.new_empty(v.shape)
    weights = q.new_empty(b, h, w, w + h, dtype=dtype)
    with torch.autocast(q.device.type, enabled=False):
        for image in range(b):
            query, key, value = (_side_by_side(x[image].to(dtype)) for x in (q, k, v))
            over_row, over_column = _by_row_and_column(weights[image])
            torch.bmm(query, key.mT, out=over_row)
            over_column.copy_(torch.bmm(query.transpose(0, 1), key.transpose(0, 1).mT))
            # The row holds the pixel already; masked here, it counts once.
            over_column.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
            torch.softmax(weights[image], dim=-1, out=weights[image])
            context = out[image] if out.dtype == dtype else torch.empty_like(value)
            _gather(context, over_row, over_column, value)
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
    """The gradients of q, k and v, each contiguous `b h w c`."""
    dtype = weights.dtype
    grads = tuple(x.new_empty(x.shape) for x in (q, k, v))
    with torch.autocast(q.device.type, enabled=False):
        for image in range(q.shape[0]):
            query, key, value, given = (_side_by_side(x[image].to(dtype)) for x in (q, k, v, grad))
            over_row, over_column = _by_row_and_column(weights[image])
            sums = [x[image] if x.dtype == dtype else torch.empty_like(x[image], dtype=dtype) for x in grads]
            _gather(sums[2], over_row.mT, over_column.mT, given)
            wanted = torch.empty_like(weights[image])  # h w (w + h): given . value
            wanted_row, wanted_column = _by_row_and_column(wanted)
            torch.bmm(given, value.mT, out=wanted_row)
            wanted_column.copy_(torch.bmm(given.transpose(0, 1), value.transpose(0, 1).mT))
            # Softmax's gradient; the masked slot's weight is 0, so nothing flows there.
            scores = torch.ops.aten._softmax_backward_data(wanted, weights[image], -1, dtype)
            over_row, over_column = _by_row_and_column(scores)
            _gather(sums[0], over_row, over_column, key)
            _gather(sums[1], over_row.mT, over_column.mT, query)
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


def _side_by_side(rows: Tensor) -> Tensor:
    """`h w c` whose channels lie side by side; a copy only where they do not."""
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def _by_row_and_column(slots: Tensor) -> tuple[Tensor, Tensor]:
    """`h w (w + h)` as what concerns the row, `h w w`, and the column, `w h h`; views."""
    width = slots.shape[1]
    return slots[:, :, :width], slots[:, :, width:].transpose(0, 1)


def _gather(out: Tensor, over_row: Tensor, over_column: Tensor, values: Tensor) -> None:
    """Into out `h w d`: over_row `h w w` times rows of values `h w d`, and over_column `w h h` times its columns."""
    torch.bmm(over_row, values, out=out)
    out.transpose(0, 1).baddbmm_(over_column, values.transpose(0, 1))


@flops_of(criss_cross)
def criss_cross_flops(q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    """Scores and weighted sum over h + w slots a pixel: 2 b h w (h + w) (c + d)."""
    b, h, w, c = q_shape
    return int(2 * b * h * w * (h + w) * (c + v_shape[3]))


@flops_of(criss_cross_backward)
def criss_cross_backward_flops(q_shape: Any, *arguments: Any, **__: Any) -> int:
    """The gradients of weights and values, queries and keys: twice the forward's."""
    return 2 * criss_cross_flops(q_shape, *arguments)
