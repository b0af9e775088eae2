"""Attention in tiles; its dtypes, gradients and layouts are tested through softmax_context."""

import pytest
import torch
from torch import Tensor

from segnl.ops.kernels.blocked_attention import blocked_attention


def by_loops(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Each query's weighted mean of v, and the logarithm of the sum that divides its weights."""
    out, log_sum = torch.empty(*q.shape[:2], v.shape[2], dtype=q.dtype), torch.empty(q.shape[:2], dtype=q.dtype)
    for image in range(q.shape[0]):
        for i in range(q.shape[1]):
            weights = torch.stack([(scale * (q[image, i] * k[image, j]).sum()).exp() for j in range(k.shape[1])])
            out[image, i] = sum(weights[j] * v[image, j] for j in range(k.shape[1])) / weights.sum()  # type: ignore[operator]
            log_sum[image, i] = weights.sum().log()
    return out, log_sum


@pytest.mark.parametrize("tile", [4, 10, 1000])
@pytest.mark.parametrize("d", [4, 6])  # the CPU's fused forward, and the tiles
def test_tiles_of_any_size_match_a_loop_over_pairs(tile: int, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segnl.ops.kernels.blocked_attention.TILE", tile)
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 37, 4), (2, 11, 4), (2, 11, d)]
    q, k, v = (torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes)
    exact, expected_log_sum = by_loops(q, k, v, 0.7)
    actual, log_sum = blocked_attention(q, k, v, 0.7)
    torch.testing.assert_close(actual, exact)
    torch.testing.assert_close(log_sum, expected_log_sum)
    assert not log_sum.requires_grad
    grad_output = torch.randn(actual.shape, dtype=torch.float64, generator=generator)
    expected = torch.autograd.grad(exact, (q, k, v), grad_output)
    torch.testing.assert_close(torch.autograd.grad(actual, (q, k, v), grad_output), expected)


@pytest.mark.parametrize("d", [4, 6])
def test_a_tile_far_above_the_ones_before_it_stays_exact(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores from -1,000 to 1,000, rising and falling: a tile far exceeds the sums before it, or the reverse."""
    monkeypatch.setattr("segnl.ops.kernels.blocked_attention.TILE", 4)
    q, ramp = torch.ones(1, 5, 4), torch.linspace(-250, 250, 11)
    v = torch.randn(1, 11, d, generator=torch.Generator().manual_seed(0))
    for keys in (ramp, ramp.flip(0)):
        k = keys[None, :, None].expand(1, 11, 4).contiguous()
        out, log_sum = blocked_attention(q, k, v, 1.0)
        torch.testing.assert_close(out, v[:, keys.argmax()][:, None].expand(1, 5, d))
        torch.testing.assert_close(log_sum, torch.full((1, 5), 1000.0))


@pytest.mark.parametrize("d", [4, 6])
def test_rows_that_are_slices_of_a_wider_map_are_read_as_they_are(d: int) -> None:
    wide = torch.randn(2, 37, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    q, k, v = wide[..., :4], wide[..., 5:9], wide[..., 10 : 10 + d]
    copies = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    grad_output = torch.randn(2, 37, d, dtype=torch.float64)
    actual, exact = blocked_attention(q, k, v, 0.7)[0], blocked_attention(*copies, 0.7)[0]
    torch.testing.assert_close(actual, exact)
    torch.testing.assert_close(
        torch.autograd.grad(actual, (q, k, v), grad_output),
        torch.autograd.grad(exact, copies, grad_output.mT.contiguous().mT),
    )


def test_two_runs_give_the_same_bits() -> None:
    q, k, v = (
        torch.randn(1, 1500, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_() for seed in (0, 1, 2)
    )
    first, second = (torch.autograd.grad(blocked_attention(q, k, v, 1.0)[0].sin().sum(), (q, k, v)) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
