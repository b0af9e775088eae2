"""sum_j relu(a_i + b_j) g_j for every i by one sort of b and two running sums; benchmarks/ops.py measures it.

O(N log N + N C) instead of O(N^2 C). As a function of a, the sum is piecewise linear: it bends at the knots t_j = -b_j,
and its slope beyond a knot is the running sum of g in the order of the knots. Two tables hold the sum's value F at each
knot and its slope G beyond it; the sum at a_i is F + (a_i - t) G of the last knot t below a_i. No large numbers are
subtracted from one another, and running sums are taken in blocks whose totals are added in float64, so float32 stays
accurate on long maps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from segnl.ops.arguments import accumulation_dtype
from segnl.ops.library import differentiate_by, operator

BLOCK = 64
"""Knots in a block, inside which running sums are products with a small triangular matrix: fast and accurate."""

CHANNELS = 128
"""Channels in the tables at once; bounds the memory beside inputs and outputs to about 4 * m * CHANNELS numbers."""


@operator(
    "relu_sum(Tensor a, Tensor b, Tensor g, SymInt divisor) -> Tensor",
    shapes=lambda a, b, g, divisor: g.new_empty(a.shape[0], a.shape[1], g.shape[2]),
    flops=lambda a, b, g, divisor: _table_flops(a, b, g[2], num_tables=2),
)
def relu_sum(a: Tensor, b: Tensor, g: Tensor, divisor: int) -> Tensor:
    """Computes sum_j relu(a_i + b_j) g_j / divisor for a `b n`, b `b m`, g `b m d`: `b n d` in g's dtype.

    Sums are taken in float32 (float64 for float64), under autocast too; a and b may be of another dtype than g.
    The derivative of relu at 0 is 0. An a or b of -inf adds nothing. The divisor is an integer, because torch.compile
    treats a float made from a map's size as a constant and would compile again for every size.
    """
    out = g.new_empty(a.shape[0], a.shape[1], g.shape[2])
    with torch.autocast(a.device.type, enabled=False):
        for image in range(a.shape[0]):
            knots, order, factor = _sorted_knots(b[image], divisor, g.dtype)
            last, reach, _ = _last_knot(a[image], knots, g.dtype)
            for channels in _slices(g.shape[2]):
                value, slope = _tables(_blocks(_rows(g[image, :, channels]), order, factor), knots)
                out[image, :, channels] = value.index_select(0, last).addcmul_(reach, slope.index_select(0, last))
    return out


@operator(
    "relu_sum_backward(Tensor a, Tensor b, Tensor g, Tensor grad, SymInt divisor) -> (Tensor, Tensor, Tensor)",
    shapes=lambda a, b, g, grad, divisor: (torch.empty_like(a), torch.empty_like(b), g.new_empty(g.shape)),
    # The slopes for a, both tables for b and g, and a product over channels for each of a and b.
    flops=lambda a, b, g, *_: (
        _table_flops(a, b, g[2], num_tables=1)
        + _table_flops(b, a, g[2], num_tables=2)
        + 2 * a[0] * g[2] * (a[1] + b[1])
    ),
)
def relu_sum_backward(a: Tensor, b: Tensor, g: Tensor, grad: Tensor, divisor: int) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the gradients of `relu_sum` for grad `b n d`: those of a, b and g.

    That of g is the same operator with a and b exchanged and grad in the place of g.
    """
    accumulate = accumulation_dtype(g.dtype)
    grad_a, grad_b = torch.zeros_like(a, dtype=accumulate), torch.zeros_like(b, dtype=accumulate)
    grad_g = g.new_empty(g.shape)
    with torch.autocast(a.device.type, enabled=False):
        for image in range(a.shape[0]):
            knots_b, order_b, factor_b = _sorted_knots(b[image], divisor, g.dtype)
            knots_a, order_a, factor_a = _sorted_knots(a[image], divisor, g.dtype)
            last_a, _, above_a = _last_knot(a[image], knots_b, g.dtype)
            last_b, reach_b, above_b = _last_knot(b[image], knots_a, g.dtype)
            for channels in _slices(g.shape[2]):
                g_rows, grad_rows = _rows(g[image, :, channels]), _rows(grad[image, :, channels])
                slope = _running_sums(_blocks(g_rows, order_b, factor_b))
                grad_a[image] += torch.linalg.vecdot(slope.index_select(0, last_a), grad_rows).mul_(above_a)
                value, slope = _tables(_blocks(grad_rows, order_a, factor_a), knots_a)
                at_last = slope.index_select(0, last_b)
                grad_b[image] += torch.linalg.vecdot(at_last, g_rows).mul_(above_b)
                grad_g[image, :, channels] = value.index_select(0, last_b).addcmul_(reach_b, at_last)
    return grad_a.to(a.dtype), grad_b.to(b.dtype), grad_g


differentiate_by(relu_sum, relu_sum_backward)


def _sorted_knots(b: Tensor, divisor: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the knots -b ascending, float64 `m`; their order, int64 `m`; and the factor of each one's g, `m 1`.

    A b of -inf never counts: its knot is put at 0 with the factor 0, since distances to infinity would be NaN.
    """
    never = b == -torch.inf
    sorted_knots = torch.sort((-b.double()).masked_fill(never, 0.0), stable=True)
    factor = torch.full_like(b, 1.0 / divisor, dtype=accumulation_dtype(dtype)).masked_fill(never, 0.0)
    return sorted_knots.values, sorted_knots.indices, factor.index_select(0, sorted_knots.indices)[:, None]


def _last_knot(a: Tensor, knots: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the last knot below each a: its index `n`, a's distance from it `n 1`, and 1 `n`, or 0 without a knot."""
    place = a.double()
    num_below = torch.searchsorted(knots, place)
    last = (num_below - 1).clamp(min=0)
    reach = (place - knots[last]).clamp(min=0)
    return last, reach.to(accumulation_dtype(dtype))[:, None], (num_below > 0).to(accumulation_dtype(dtype))


def _slices(num_channels: int) -> list[slice]:
    return [slice(start, start + CHANNELS) for start in range(0, num_channels, CHANNELS)]


def _rows(values: Tensor) -> Tensor:
    """Returns `m d` contiguous, in the dtype in which sums are taken."""
    return values.to(accumulation_dtype(values.dtype)).contiguous()


def _blocks(rows: Tensor, order: Tensor, factor: Tensor) -> Tensor:
    """Returns rows `m d` in the order of the knots times factor `m 1`, padded with zeros: `blocks BLOCK d`."""
    num_blocks = -(-rows.shape[0] // BLOCK)
    padded = rows.new_empty(num_blocks * BLOCK, rows.shape[1])
    padded[rows.shape[0] :] = 0
    torch.mul(rows.index_select(0, order), factor, out=padded[: rows.shape[0]])
    return padded.view(num_blocks, BLOCK, rows.shape[1])


def _running_sums(blocks: Tensor) -> Tensor:
    """Returns the slope G beyond each knot, `blocks*BLOCK d`: the running sum over the knots."""
    slope = torch.matmul(_triangle(blocks), blocks)
    slope += _sum_before(slope[:, -1].double()).to(slope.dtype)[:, None]
    return slope.flatten(0, 1)


def _tables(blocks: Tensor, knots: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the value F at each knot and the slope G beyond it, each `blocks*BLOCK d`."""
    num_blocks = blocks.shape[0]
    knots = torch.cat([knots, knots[-1:].expand(num_blocks * BLOCK - knots.shape[0])]).unflatten(0, (num_blocks, BLOCK))
    distance = (knots[:, :, None] - knots[:, None, :]).clamp(min=0)  # blocks BLOCK BLOCK: 0 towards later knots
    value = torch.bmm(distance.to(blocks.dtype), blocks)
    slope = torch.matmul(_triangle(blocks), blocks)

    # From block to block in float64: the slope before it, and the value at its first knot.
    total = slope[:, -1].double()
    slope_before = _sum_before(total)  # blocks d
    to_next = torch.cat([knots[1:, 0], knots[-1:, -1]]) - knots[:, 0]
    after_last = to_next + knots[:, 0] - knots[:, -1]
    rise = to_next[:, None] * slope_before + after_last[:, None] * total + value[:, -1].double()
    value_before = _sum_before(rise)

    slope_before = slope_before.to(slope.dtype)[:, None]  # blocks 1 d
    into_block = (knots - knots[:, :1]).to(value.dtype)[:, :, None]  # blocks BLOCK 1
    value.add_(value_before.to(value.dtype)[:, None]).addcmul_(into_block, slope_before)
    return value.flatten(0, 1), slope.add_(slope_before).flatten(0, 1)


def _triangle(like: Tensor) -> Tensor:
    return torch.ones(BLOCK, BLOCK, dtype=like.dtype, device=like.device).tril()


def _sum_before(rows: Tensor) -> Tensor:
    """Returns for each row of `m d` the sum of the rows before it, by products: cumsum is not deterministic on CUDA."""
    if rows.shape[0] <= BLOCK:
        return _triangle(rows)[: rows.shape[0], : rows.shape[0]].tril(-1) @ rows
    num_blocks = -(-rows.shape[0] // BLOCK)
    padding = rows.new_zeros(num_blocks * BLOCK - rows.shape[0], rows.shape[1])
    blocks = torch.cat([rows, padding]).unflatten(0, (num_blocks, BLOCK))
    inside = torch.matmul(_triangle(rows).tril(-1), blocks)
    before = _sum_before(inside[:, -1] + blocks[:, -1])
    return (inside + before[:, None]).flatten(0, 1)[: rows.shape[0]]


def _table_flops(a: Sequence[int], b: Sequence[int], channels: int, *, num_tables: int) -> int:
    """Counts a triangular product for each table and block, and the positions' multiply-adds; the sort counts as 0."""
    padded = -(-b[1] // BLOCK) * BLOCK
    return 2 * a[0] * channels * (num_tables * padded * BLOCK + (num_tables - 1) * (padded + a[1]))
