"""The sorted form of sum_j relu(a_i + b_j) g_j: ties, blocks, borders and the error over long maps."""

import pytest
import torch
from torch import Tensor

from segnl.ops.kernels.relu_sum import BLOCK, relu_sum, relu_sum_backward


def by_loops(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    rows = [
        sum((a[:, i] + b[:, j]).clamp(min=0)[:, None] * g[:, j] for j in range(b.shape[1])) for i in range(a.shape[1])
    ]
    return torch.stack(rows, dim=1)  # type: ignore[arg-type]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("m", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_any_number_of_knots_in_the_last_block_matches_a_loop(m: int) -> None:
    a, b, g = draw(2, 9), draw(2, m, seed=1), draw(2, m, 3, seed=2)
    torch.testing.assert_close(relu_sum(a, b, g, 2), 0.5 * by_loops(a, b, g), rtol=1e-12, atol=1e-12)


def test_more_channels_than_one_slice_match_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segnl.ops.kernels.relu_sum.CHANNELS", 2)
    a, b, g = (x.requires_grad_() for x in (draw(2, 9), draw(2, 70, seed=1), draw(2, 70, 5, seed=2)))
    expected, grad_output = by_loops(a, b, g), draw(2, 9, 5, seed=3)
    expected_grads = torch.autograd.grad(expected, (a, b, g), grad_output)
    torch.testing.assert_close(relu_sum(a, b, g, 1), expected)
    torch.testing.assert_close(relu_sum_backward(a.detach(), b.detach(), g.detach(), grad_output, 1), expected_grads)


def test_equal_scores_and_sums_of_zero_follow_relu() -> None:
    """Many pairs meet the kink exactly; there relu's derivative is 0, as torch has it."""
    a = torch.tensor([[-1.0, 0.0, 0.0, 1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[0.0, 0.0, 1.0, -1.0, -1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    g = draw(1, 6, 2).requires_grad_()
    expected = torch.einsum("bnm,bmd->bnd", torch.relu(a[:, :, None] + b[:, None]), g)
    actual = relu_sum(a, b, g, 1)
    torch.testing.assert_close(actual, expected)
    grad_output = draw(1, 5, 2, seed=3)
    expected_grads = torch.autograd.grad(expected, (a, b, g), grad_output)
    torch.testing.assert_close(torch.autograd.grad(actual, (a, b, g), grad_output), expected_grads)


def test_pairs_that_are_all_below_zero_give_exactly_zero() -> None:
    a, b, g = (x.requires_grad_() for x in (draw(1, 9).abs() * -1, draw(1, 70).abs() * -1, draw(1, 70, 3)))
    context = relu_sum(a, b, g, 1)
    assert not context.any()
    assert not any(x.any() for x in torch.autograd.grad(context.sum(), (a, b, g)))


@pytest.mark.parametrize("num_never", [3, 70])
def test_scores_of_minus_infinity_add_nothing(num_never: int) -> None:
    """In a and in b; 70 of 70 is all of b."""
    a, b, g = draw(1, 9), draw(1, 70, seed=1), draw(1, 70, 3, seed=2)
    a[0, 4], b[0, torch.randperm(70)[:num_never]] = -torch.inf, -torch.inf
    inputs = [x.requires_grad_() for x in (a, b, g)]
    expected = torch.einsum("bnm,bmd->bnd", torch.relu(a[:, :, None] + b[:, None]), g)
    actual, grad_output = relu_sum(a, b, g, 1), draw(1, 9, 3, seed=3)
    torch.testing.assert_close(actual, expected)
    expected_grads = torch.autograd.grad(expected, inputs, grad_output)
    torch.testing.assert_close(torch.autograd.grad(actual, inputs, grad_output), expected_grads)


def test_scores_far_from_zero_lose_nothing() -> None:
    """a and b large and opposite: prefix sums of b g and g alone would cancel to nothing."""
    a, b, g = draw(1, 50).float() + 3000, draw(1, 200, seed=1).float() - 3000, draw(1, 200, 4, seed=2).float()
    expected = torch.einsum("bnm,bmd->bnd", torch.relu(a.double()[:, :, None] + b.double()[:, None]), g.double())
    assert (relu_sum(a, b, g, 1) - expected).abs().max() <= 3e-7 * expected.abs().max()


def test_float32_over_a_long_map_stays_within_1e_6_of_float64() -> None:
    """65,536 positions of one sign and of both, at a tenth of the error allowed for twice as many."""
    n = 1 << 16
    a, b = draw(1, 257).float(), draw(1, n, seed=1).float()
    for g in (draw(1, n, 2, seed=2).float(), draw(1, n, 2, seed=2).abs().float()):
        exact = relu_sum(a.double(), b.double(), g.double(), n)
        assert (relu_sum(a, b, g, n) - exact).abs().max() <= 1e-6 * exact.abs().max()
        grad_output = draw(1, 257, 2, seed=3).float()
        single = relu_sum_backward(a, b, g, grad_output, 1)
        for near, exact in zip(
            single, relu_sum_backward(*(x.double() for x in (a, b, g, grad_output)), 1), strict=True
        ):
            assert (near - exact).abs().max() <= 1e-6 * exact.abs().max()
