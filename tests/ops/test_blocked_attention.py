"""Attention by blocks of queries; its dtypes, gradients and layouts are tested through softmax_context."""

import pytest
import torch
from torch import Tensor

from segnl.ops.blocked_attention import blocked_attention


def by_loops(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Each query's weighted mean of v, and the logarithm of what its weights were divided by."""
    out, log_sum = torch.empty(*q.shape[:2], v.shape[2], dtype=q.dtype), torch.empty(q.shape[:2], dtype=q.dtype)
    for image in range(q.shape[0]):
        for i in range(q.shape[1]):
            weights = torch.stack([(scale * (q[image, i] * k[image, j]).sum()).exp() for j in range(k.shape[1])])
            out[image, i] = sum(weights[j] * v[image, j] for j in range(k.shape[1])) / weights.sum()  # type: ignore[operator]
            log_sum[image, i] = weights.sum().log()
    return out, log_sum


@pytest.mark.parametrize("rows_at_once", [16, 20, 1000])
def test_blocks_of_any_size_match_a_loop_over_pairs(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segnl.ops.blocked_attention.BLOCK_NUMBERS", rows_at_once * 11)
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 37, 4), (2, 11, 4), (2, 11, 6)]
    q, k, v = (torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes)
    exact, exact_log_sum = by_loops(q, k, v, 0.7)
    near, log_sum = blocked_attention(q, k, v, 0.7)
    torch.testing.assert_close(near, exact)
    torch.testing.assert_close(log_sum, exact_log_sum)
    assert not log_sum.requires_grad
    given = torch.randn(near.shape, dtype=torch.float64, generator=generator)
    expected = torch.autograd.grad(exact, (q, k, v), given)
    torch.testing.assert_close(torch.autograd.grad(near, (q, k, v), given), expected)
