"""The CPU's pixel losses against the plain forms; tests/ops/test_pixel_loss.py compares them with loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from segnl.ops.pixel_loss import (
    cross_entropy_sum,
    nth_largest,
    pixel_cross_entropy,
    pixel_losses,
    reference_cross_entropy_sum,
    reference_pixel_losses,
)
from segnl.ops.resize import resize


def draw(in_hw: tuple[int, int] = (7, 11)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, *in_hw, dtype=torch.float64, generator=generator)
    label = torch.randint(0, 5, (2, 33, 50), generator=generator)
    label[:, 4] = 255
    return logits.requires_grad_(), label


def test_summed_loss_is_the_sum_of_the_pixels_losses() -> None:
    logits, label = draw()
    losses = pixel_losses(logits.detach(), label, True)
    total, grad = cross_entropy_sum(logits, label, None, True, 0.0, False)
    torch.testing.assert_close(total, losses[label != 255].sum())
    assert total.dtype == torch.float64
    assert grad.numel() == 0


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("in_hw", [(7, 11), (1, 1), (40, 60)])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_tiles_match_the_plain_forms(in_hw: tuple[int, int], align_corners: bool, label_smoothing: float) -> None:
    logits, label = draw(in_hw)
    logits, class_weight = logits.detach(), torch.tensor([0.5, 1.0, 2.0, 0.25, 3.0], dtype=torch.float64)
    for weight in (None, class_weight):
        settings = (weight, align_corners, label_smoothing, True)
        tiled, plain = (f(logits, label, *settings) for f in (cross_entropy_sum, reference_cross_entropy_sum))
        torch.testing.assert_close(tiled, plain, rtol=1e-12, atol=1e-12)
        tiled, plain = (f(logits, label, align_corners) for f in (pixel_losses, reference_pixel_losses))
        torch.testing.assert_close(tiled, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factor", [1.0, 8.0, 12.0, 30.0, 1000.0])
def test_float32_stays_exact_however_far_neighbours_disagree(factor: float) -> None:
    """Between positions that are certain of different classes all exponentials are small; their sum must not vanish."""
    logits, label = draw()
    logits = (logits.detach() * factor).requires_grad_()
    plain = F.cross_entropy(resize(logits, (33, 50), align_corners=False), label, ignore_index=255)
    (exact,) = torch.autograd.grad(plain, logits)
    single = logits.detach().float().requires_grad_()
    loss = pixel_cross_entropy(single, label, align_corners=False)
    assert abs(loss.item() - plain.item()) <= 1e-6 * plain.item()
    (grad,) = torch.autograd.grad(loss, single)
    # A score of hundreds has an error of 2^-24 of its size, and so has its exponential.
    assert (grad - exact).abs().max() <= 1e-6 * max(1, factor / 8) * exact.abs().max()


def test_classes_beyond_the_ignored_label_count() -> None:
    logits = torch.randn(1, 300, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    label = torch.arange(300)[None].repeat(1, 1).view(1, 15, 20)
    exact = F.cross_entropy(resize(logits, (15, 20), align_corners=True), label, ignore_index=255)
    torch.testing.assert_close(pixel_cross_entropy(logits, label, align_corners=True), exact)
    with pytest.raises(ValueError, match=r"label: holds 300; expected 0\.\.299, or 255"):
        pixel_cross_entropy(logits, label + 1, align_corners=True)
    with pytest.raises(ValueError, match=r"label: holds 65536; expected 0\.\.299"):
        pixel_cross_entropy(logits, label.masked_fill(label == 7, 2**16), align_corners=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nth_largest_counts_equal_values_and_leaves_its_input(dtype: torch.dtype) -> None:
    values = torch.tensor([[3.0, 1.0, 3.0], [-1.0, 2.0, 0.5]], dtype=dtype)
    before = values.clone()
    in_order = [nth_largest(values, torch.tensor(n), math.inf).item() for n in range(1, 7)]
    assert in_order == [3.0, 3.0, 2.0, 1.0, 0.5, -1.0]
    assert [nth_largest(values, torch.tensor(n), 1.5).item() for n in range(1, 7)] == [1.5, 1.5, 1.5, 1.0, 0.5, -1.0]
    assert values.equal(before)


def test_operators_are_registered_as_torch_asks() -> None:
    logits, label = draw()
    tests = ("test_schema", "test_faketensor")
    for wants_gradient in (False, True):
        arguments = (logits, label, None, False, 0.1, wants_gradient)
        torch.library.opcheck(cross_entropy_sum, arguments, test_utils=tests)
    torch.library.opcheck(pixel_losses, (logits, label, False), test_utils=tests)
    torch.library.opcheck(nth_largest, (logits.detach(), torch.tensor(3), 0.5), test_utils=tests)


def test_flops_are_those_of_the_interpolation() -> None:
    logits, label = draw(in_hw=(1, 1))
    with FlopCounterMode(display=False) as counter:
        pixel_cross_entropy(logits.detach(), label, align_corners=False)
    # From one position: a wide row of 50 columns, and one multiply-add for every number of the result.
    assert counter.get_total_flops() == 2 * 2 * 5 * (50 + 33 * 50)
    with FlopCounterMode(display=False) as counter:
        pixel_cross_entropy(logits, label, align_corners=False).backward()
    assert counter.get_total_flops() == 2 * 2 * 5 * 2 * (50 + 33 * 50)
