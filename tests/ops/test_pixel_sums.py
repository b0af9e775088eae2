"""The operators behind the pixel losses; values and gradients are tested through pixel_loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from segnl.ops.pixel_loss import pixel_cross_entropy
from segnl.ops.pixel_sums import nth_largest, per_pixel_loss, pixel_cross_entropy_sum
from segnl.ops.resize import resize


def draw(in_hw: tuple[int, int] = (7, 11)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, *in_hw, dtype=torch.float64, generator=generator)
    label = torch.randint(0, 5, (2, 33, 50), generator=generator)
    label[:, 4] = 255
    return logits.requires_grad_(), label


def test_summed_loss_is_the_sum_of_each_pixels() -> None:
    logits, label = draw()
    pixel_losses = per_pixel_loss(logits.detach(), label, True, 16)
    total, grad = pixel_cross_entropy_sum(logits, label, None, True, 0.0, 16, False)
    torch.testing.assert_close(total, pixel_losses[label != 255].sum())
    assert total.dtype == torch.float64
    assert grad.numel() == 0


@pytest.mark.parametrize("factor", [1.0, 8.0, 12.0, 30.0, 1000.0])
def test_float32_holds_however_far_neighbours_disagree(factor: float) -> None:
    """Between positions that are sure of different classes every exponential is small; the sum must not be."""
    logits, label = draw()
    logits = (logits.detach() * factor).requires_grad_()
    plain = F.cross_entropy(resize(logits, (33, 50), align_corners=False), label, ignore_index=255)
    (exact,) = torch.autograd.grad(plain, logits)
    single = logits.detach().float().requires_grad_()
    loss = pixel_cross_entropy(single, label, align_corners=False)
    assert abs(loss.item() - plain.item()) <= 1e-6 * plain.item()
    (grad,) = torch.autograd.grad(loss, single)
    # A score of hundreds has itself an error of 2^-24 of that, and so has every exponential.
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
        arguments = (logits, label, None, False, 0.1, 16, wants_gradient)
        torch.library.opcheck(pixel_cross_entropy_sum, arguments, test_utils=tests)
    torch.library.opcheck(per_pixel_loss, (logits, label, False, None), test_utils=tests)
    torch.library.opcheck(nth_largest, (logits.detach(), torch.tensor(3), 0.5), test_utils=tests)


def test_flops_are_those_of_the_interpolating_products() -> None:
    logits, label = draw(in_hw=(1, 1))
    with FlopCounterMode(display=False) as counter:
        pixel_cross_entropy(logits.detach(), label, align_corners=False)
    # One pixel in: widened to 50 columns once, and one multiply-add for every number out.
    assert counter.get_total_flops() == 2 * 2 * 5 * (50 + 33 * 50)
    with FlopCounterMode(display=False) as counter:
        pixel_cross_entropy(logits, label, align_corners=False, band_rows=33).backward()
    assert counter.get_total_flops() == 2 * 2 * 5 * 2 * (50 + 33 * 50)
