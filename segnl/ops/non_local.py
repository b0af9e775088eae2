"""Non-local context: each position's weighted sum over all positions, for the four pairwise functions.

Source: Non-local Neural Networks, Wang et al. 2018, arXiv:1711.07971. Functions named `reference_` are the published
formulas, which hold all pairs of positions; the others give the same numbers and never hold all pairs of a large map
(docs/adr/0008-exact-context-operators.md).

Results are `b d n` views of memory that lies `b n d`; inputs that lie that way too, such as the transposed result of
F.linear, are read without a copy.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.ops.arguments import (
    accumulation_dtype,
    agree,
    is_exporting,
    no_autocast,
    only_reverse_mode,
    with_adjacent_channels,
)
from segnl.ops.kernels.blocked_attention import blocked_attention
from segnl.ops.kernels.relu_sum import relu_sum

MAX_PLAIN_POSITIONS = 256
"""Positions m up to which the plain softmax is used: in tiles, each step would be a row of small products."""


def softmax_context(theta: Tensor, phi: Tensor, g: Tensor, *, scale: float = 1.0) -> Tensor:
    """sum_j softmax_j(scale * theta_i . phi_j) g_j: the gaussian and the embedded gaussian pairwise functions.

    theta `b c n`, phi `b c m`, g `b d m`; float32, float64, bfloat16 or float16. Returns `b d n`.
    The softmax and the sums are taken in float32 (float64 for float64), under autocast too. All n m weights are kept
    only up to MAX_PLAIN_POSITIONS positions m; beyond, the result can be differentiated once.

    Raises ValueError when shapes, dtypes or devices do not agree, or a map is empty.
    """
    theta, phi, g = agree(("theta", theta, "b c n"), ("phi", phi, "b c m"), ("g", g, "b d m"))
    # The fused kernels want adjacent channels; over a channels-first map they run at naive speed, if at all.
    q, k, v = (with_adjacent_channels(x.transpose(1, 2)) for x in (theta, phi, g))  # b n c, b m c, b m d
    if is_exporting() or (q.device.type == "cuda" and q.dtype != torch.float64):
        return _fused(q, k, v, scale).transpose(1, 2)
    if k.shape[1] <= MAX_PLAIN_POSITIONS:
        return reference_softmax_context(q.mT, k.mT, v.mT, scale=scale)
    only_reverse_mode("softmax_context", q, k, v)
    context: Tensor = blocked_attention(q, k, v, scale)[0]  # b n d
    return context.transpose(1, 2)


def reference_softmax_context(theta: Tensor, phi: Tensor, g: Tensor, *, scale: float = 1.0) -> Tensor:
    """`softmax_context` with all pairs: theta `b c n`, phi `b c m`, g `b d m` -> `b d n`."""
    dtype = accumulation_dtype(g.dtype)
    with no_autocast(g):
        q, k, v = (x.to(dtype) for x in (theta.mT, phi.mT, g.mT))  # b n c, b m c, b m d
        weights = torch.baddbmm(q.new_zeros(()), q, k.mT, beta=0, alpha=scale).softmax(dim=-1)  # b n m
        return torch.bmm(weights, v).to(g.dtype).mT  # b d n


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Calls torch's fused attention: q `b n c`, k `b m c`, v `b m d` -> `b n d`."""
    channels = v.shape[-1]
    if q.device.type == "cuda":
        # CUDA's fused kernels want channels in eights; zeros change neither scores nor the channels that are kept.
        q, k, v = (F.pad(x, (0, -x.shape[-1] % 8)) for x in (q, k, v))
    q, k, v = (x.unsqueeze(1) for x in (q, k, v))  # b 1 n c: one head; the fused kernels take four axes only
    return F.scaled_dot_product_attention(q, k, v, scale=scale)[:, 0, :, :channels]


def dot_product_context(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """sum_j (theta_i . phi_j) g_j / m, as theta^T (phi g^T) / m: O((n + m) c d) instead of O(n m (c + d)).

    theta `b c n`, phi `b c m`, g `b d m`; float32, float64, bfloat16 or float16. Returns `b d n`.
    The sums are taken in float32 (float64 for float64), under autocast too.

    Raises ValueError when shapes, dtypes or devices do not agree, or a map is empty.
    """
    theta, phi, g = agree(("theta", theta, "b c n"), ("phi", phi, "b c m"), ("g", g, "b d m"))
    dtype = accumulation_dtype(g.dtype)
    with no_autocast(g):
        summary = torch.bmm(phi.to(dtype), g.to(dtype).mT) / phi.shape[-1]  # b c d: the same for every i
        return torch.bmm(theta.to(dtype).mT, summary).to(g.dtype).mT  # b d n


def reference_dot_product_context(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """`dot_product_context` with all pairs: theta `b c n`, phi `b c m`, g `b d m` -> `b d n`."""
    weights = torch.matmul(theta.transpose(1, 2), phi) / phi.shape[-1]  # b n m
    return torch.matmul(g, weights.transpose(1, 2))  # b d n


def concatenation_context(theta_score: Tensor, phi_score: Tensor, g: Tensor) -> Tensor:
    """sum_j relu(theta_score_i + phi_score_j) g_j / m, in O(m log m + (n + m) d).

    theta_score `b n`, phi_score `b m`, g `b d m`; float32, float64, bfloat16 or float16. Returns `b d n`.
    The scores are the two halves of the paper's w^T [theta_i, phi_j]. Sums are taken in float32 with float64 totals
    (float64 for float64), under autocast too; there the scores may be of another dtype than g. Differentiable once.

    Raises ValueError when shapes, dtypes or devices do not agree, or a map is empty.
    """
    theta_score, phi_score, g = agree(
        ("theta_score", theta_score, "b n"), ("phi_score", phi_score, "b m"), ("g", g, "b d m"), autocasts=False
    )
    if is_exporting():
        return reference_concatenation_context(theta_score.to(g.dtype), phi_score.to(g.dtype), g)
    only_reverse_mode("concatenation_context", theta_score, phi_score, g)
    context: Tensor = relu_sum(theta_score, phi_score, g.transpose(1, 2), g.shape[-1])  # b n d
    return context.transpose(1, 2)


def reference_concatenation_context(theta_score: Tensor, phi_score: Tensor, g: Tensor) -> Tensor:
    """`concatenation_context` with all pairs: theta_score `b n`, phi_score `b m`, g `b d m` -> `b d n`."""
    weights = (theta_score[:, :, None] + phi_score[:, None, :]).relu() / phi_score.shape[-1]  # b n m
    return torch.matmul(g, weights.transpose(1, 2))  # b d n
