"""The tiles and operators behind the pixel losses; values and gradients are tested through pixel_loss."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from segnl.ops.pixel_loss import pixel_cross_entropy
from segnl.ops.pixel_tiles import pixel_cross_entropy_sum, pixel_hardness


def draw(in_hw: tuple[int, int] = (7, 11)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, *in_hw, dtype=torch.float64, generator=generator)
    label = torch.randint(0, 5, (2, 33, 50), generator=generator)
    label[:, 4] = 255
    return logits.requires_grad_(), label


@pytest.mark.parametrize("align_corners", [False, True])
def test_tiles_of_a_few_columns_change_nothing(align_corners: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, label = draw()
    whole = pixel_cross_entropy(logits, label, align_corners=align_corners)
    monkeypatch.setattr("segnl.ops.pixel_tiles.TILE_COLUMNS", 13)
    tiled = pixel_cross_entropy(logits, label, align_corners=align_corners)
    torch.testing.assert_close(tiled, whole, rtol=1e-13, atol=0)
    (near,), (exact,) = torch.autograd.grad(tiled, logits), torch.autograd.grad(whole, logits)
    torch.testing.assert_close(near, exact, rtol=1e-11, atol=1e-16)


def test_summed_loss_is_the_sum_of_each_pixels() -> None:
    logits, label = draw()
    hardness = pixel_hardness(logits.detach(), label, True, 16)
    total, grad = pixel_cross_entropy_sum(logits, label, None, True, 0.0, 16, False)
    torch.testing.assert_close(total, hardness[label != 255].sum())
    assert total.dtype == torch.float64
    assert grad.numel() == 0


def test_operators_are_registered_as_torch_asks() -> None:
    logits, label = draw()
    tests = ("test_schema", "test_faketensor")
    for wants_gradient in (False, True):
        arguments = (logits, label, None, False, 0.1, 16, wants_gradient)
        torch.library.opcheck(pixel_cross_entropy_sum, arguments, test_utils=tests)
    torch.library.opcheck(pixel_hardness, (logits, label, False, 16), test_utils=tests)


def test_flops_are_those_of_the_interpolating_products() -> None:
    logits, label = draw(in_hw=(1, 1))
    with FlopCounterMode(display=False) as counter:
        pixel_cross_entropy(logits.detach(), label, align_corners=False)
    # One pixel in: 3 bands of rows each widen it to 50 columns, then every pixel out is one product.
    assert counter.get_total_flops() == 2 * 2 * 5 * (3 * 50 + 33 * 50)
