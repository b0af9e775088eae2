"""Softmax attention by blocks of queries, exact, where torch has no fused kernel for the shape.

A fused kernel wants as many channels in the values as in the keys (CPU) and no float64 (CUDA); padding them up to one
another doubles the work. Here a block of rows of the score matrix exists at a time, in forward and in backward.
"""

from typing import Any

import torch
from torch import Tensor

from segnl.ops.arguments import accumulator
from segnl.ops.library import differentiate, flops_of, operator, shapes_of

BLOCK_NUMBERS = 1 << 21
"""Scores held at once: 8 MB in float32; a block is as many queries as fit."""


@operator("blocked_attention(Tensor q, Tensor k, Tensor v, float scale) -> (Tensor, Tensor)")
def blocked_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """softmax(scale * q k^T) v for q `b n c`, k `b m c`, v `b m d`: `b n d` in v's dtype, and each row's log-sum-exp.

    Products, softmax and sums in float32 (float64 for float64), whatever autocast says.
    """
    dtype = accumulator(v.dtype)
    out = v.new_empty(q.shape[0], q.shape[1], v.shape[2])
    log_sum = q.new_empty(q.shape[:2], dtype=dtype)  # b n
    with torch.autocast(q.device.type, enabled=False):
        for image in range(q.shape[0]):
            keys, values = k[image].to(dtype).t(), v[image].to(dtype)
            for rows in _row_blocks(q.shape[1], k.shape[1]):
                weights = torch.mm(q[image, rows].to(dtype) * scale, keys)  # rows m
                highest = weights.amax(dim=1, keepdim=True)
                weights.sub_(highest).exp_()
                total = weights.sum(dim=1, keepdim=True)
                out[image, rows] = torch.mm(weights, values).div_(total)
                log_sum[image, rows] = (highest + total.log())[:, 0]
    return out, log_sum


@shapes_of(blocked_attention)
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out = v.new_empty(q.shape[0], q.shape[1], v.shape[2])
    return out, q.new_empty(q.shape[:2], dtype=accumulator(v.dtype))


@operator(
    "blocked_attention_backward(Tensor q, Tensor k, Tensor v, Tensor out, Tensor log_sum, Tensor grad, "
    "float scale) -> (Tensor, Tensor, Tensor)"
)
def blocked_attention_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor, grad: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v; each block's weights are formed again from the scores and their log-sum-exp."""
    dtype = accumulator(v.dtype)
    grad_q, grad_k, grad_v = (_empty(x) for x in (q, k, v))
    with torch.autocast(q.device.type, enabled=False):
        for image in range(q.shape[0]):
            keys, values = k[image].to(dtype), v[image].to(dtype)
            sum_k, sum_v = torch.zeros_like(keys), torch.zeros_like(values)
            for rows in _row_blocks(q.shape[1], k.shape[1]):
                queries, given = q[image, rows].to(dtype) * scale, grad[image, rows].to(dtype)
                weights = torch.mm(queries, keys.t()).sub_(log_sum[image, rows, None]).exp_()  # rows m
                sum_v.addmm_(weights.t(), given)
                # Softmax's gradient: weights * (given . v - the mean of given . v under the weights).
                mean = torch.linalg.vecdot(given, out[image, rows].to(dtype))[:, None]
                weights.mul_(torch.mm(given, values.t()).sub_(mean))
                grad_q[image, rows] = torch.mm(weights, keys).mul_(scale)
                sum_k.addmm_(weights.t(), queries)
            grad_k[image], grad_v[image] = sum_k, sum_v
    return grad_q, grad_k, grad_v


@shapes_of(blocked_attention_backward)
def _(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor, grad: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(q), _empty(k), _empty(v)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.scale = inputs[3]


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    return *blocked_attention_backward(*ctx.saved_tensors, grad, ctx.scale), None


differentiate(blocked_attention, _backward, _setup_context)


def _row_blocks(num_queries: int, num_keys: int) -> list[slice]:
    size = max(16, BLOCK_NUMBERS // num_keys)
    return [slice(start, start + size) for start in range(0, num_queries, size)]


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


@flops_of(blocked_attention)
def blocked_attention_flops(q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    """Scores and weighted sum: 2 b n m (c + d)."""
    return int(2 * q_shape[0] * q_shape[1] * k_shape[1] * (q_shape[2] + v_shape[2]))


@flops_of(blocked_attention_backward)
def blocked_attention_backward_flops(q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    """Scores again, the gradients of q and k, of v and of the weights: 2 b n m (3 c + 2 d)."""
    return int(2 * q_shape[0] * q_shape[1] * k_shape[1] * (3 * q_shape[2] + 2 * v_shape[2]))
