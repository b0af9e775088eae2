"""Exact softmax attention in tiles of scores, where torch has no good fused kernel; benchmarks/ops.py measures it.

A fused kernel needs as many channels in the values as in the keys (CPU) and no float64 (CUDA); padding the smaller of
the two doubles the work. The CPU's fused backward is a sequence of small products, after each of which the threads wait
for one another; the products here are large. So on the CPU torch's forward is used, and this backward.
"""

import torch
from torch import Tensor

from segnl.ops.arguments import accumulation_dtype
from segnl.ops.library import differentiate_by, operator

TILE = 768
"""Rows and columns of a tile of scores, 2.4 MB in float32: fits a cache, and products run at full speed.

Products over long rows of scores run at half that speed, since each row lies on other memory pages.
"""


@operator(
    "blocked_attention(Tensor q, Tensor k, Tensor v, float scale) -> (Tensor, Tensor)",
    shapes=lambda q, k, v, scale: _empty_results(q, v),
    flops=lambda q, k, v, scale: 2 * q[0] * q[1] * k[1] * (q[2] + v[2]),
)
def blocked_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Computes softmax(scale * q k^T) v and each row's log-sum-exp: q `b n c`, k `b m c`, v `b m d` -> `b n d`, `b n`.

    Products, softmax and sums are taken in float32 (float64 for float64), under autocast too.
    """
    with torch.autocast(q.device.type, enabled=False):
        if q.device.type == "cpu" and q.shape[2] == v.shape[2]:
            fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            out, log_sum = fused(q[:, None], k[:, None], v[:, None], scale=scale)  # b 1 n d, b 1 n: one head
            return out[:, 0].contiguous(), log_sum[:, 0].contiguous()
        return _tiled(q, k, v, scale)


def _tiled(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(v.dtype)
    out, log_sum = _empty_results(q, v)
    for image in range(q.shape[0]):
        keys, values = k[image].to(dtype), v[image].to(dtype)
        for rows in _sides(q):
            queries = q[image, rows].to(dtype) * scale
            highest = queries.new_full((len(queries), 1), -torch.inf)
            total, context = torch.zeros_like(highest), queries.new_zeros(len(queries), v.shape[2])
            for columns in _sides(k):
                weights = queries @ keys[columns].t()
                higher = torch.maximum(highest, weights.amax(dim=1, keepdim=True))
                weights.sub_(higher).exp_()
                # Rescales the sums taken under the lower maximum to the new one.
                rescaling = highest.sub_(higher).exp_()
                total.mul_(rescaling).add_(weights.sum(dim=1, keepdim=True))
                context.mul_(rescaling).addmm_(weights, values[columns])
                highest = higher
            out[image, rows] = context.div_(total)
            log_sum[image, rows] = (highest + total.log())[:, 0]
    return out, log_sum


@operator(
    "blocked_attention_backward(Tensor q, Tensor k, Tensor v, Tensor out, Tensor log_sum, Tensor grad, "
    "float scale) -> (Tensor, Tensor, Tensor)",
    shapes=lambda q, k, v, *_: (q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)),
    # Scores again, and the gradients of q and k, of v and of the weights.
    flops=lambda q, k, v, *_: 2 * q[0] * q[1] * k[1] * (3 * q[2] + 2 * v[2]),
)
def blocked_attention_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor, grad: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the gradients of q, k and v; a tile's weights are recomputed from its scores and log_sum."""
    dtype = accumulation_dtype(v.dtype)
    grad_q, grad_k, grad_v = (x.new_empty(x.shape) for x in (q, k, v))
    with torch.autocast(q.device.type, enabled=False):
        for image in range(q.shape[0]):
            keys, values = k[image].to(dtype), v[image].to(dtype)
            sum_k, sum_v = (x.new_zeros(x.shape) for x in (keys, values))
            for rows in _sides(q):
                queries, grad_output = q[image, rows].to(dtype) * scale, grad[image, rows].to(dtype).contiguous()
                mean = torch.linalg.vecdot(grad_output, out[image, rows].to(dtype))
                sum_q = torch.zeros_like(queries)
                for columns in _sides(k):
                    # Keys are the rows and queries the columns, so log_sum and mean, one a query, run along rows.
                    weights = (keys[columns] @ queries.t()).sub_(log_sum[image, rows]).exp_()
                    sum_v[columns].addmm_(weights, grad_output)
                    # Softmax's gradient: weights * (grad_output . v - the mean of grad_output . v under the weights).
                    weights.mul_((values[columns] @ grad_output.t()).sub_(mean))
                    sum_q.addmm_(weights.t(), keys[columns])
                    sum_k[columns].addmm_(weights, queries)
                grad_q[image, rows] = sum_q.mul_(scale)
            grad_k[image], grad_v[image] = sum_k, sum_v
    return grad_q, grad_k, grad_v


differentiate_by(blocked_attention, blocked_attention_backward, saved_outputs=(0, 1))


def _empty_results(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    out = v.new_empty(q.shape[0], q.shape[1], v.shape[2])
    return out, q.new_empty(q.shape[:2], dtype=accumulation_dtype(v.dtype))


def _sides(positions: Tensor) -> list[slice]:
    """Cuts the n of `b n c` into the sides of tiles."""
    return [slice(start, start + TILE) for start in range(0, positions.shape[1], TILE)]
