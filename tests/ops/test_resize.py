"""Bilinear resizing against loops over pixels in float64."""

import math

import pytest
import torch
from torch import Tensor

from segnl.ops.resize import resize, resize_rows, taps_matrix

SIZES = [
    ((7, 11), (33, 50)),
    ((7, 11), (5, 4)),
    ((1, 11), (6, 30)),
    ((7, 1), (9, 2)),
    ((7, 11), (7, 20)),
    ((7, 11), (1, 1)),
]


def resized_by_loops(x: Tensor, out_hw: tuple[int, int], align_corners: bool) -> Tensor:
    """Each output pixel's place among the input's, and the four pixels around it."""

    def place(index: int, num_in: int, num_out: int) -> float:
        if align_corners:
            return index * (num_in - 1) / (num_out - 1) if num_out > 1 else 0.0
        return max((index + 0.5) * num_in / num_out - 0.5, 0.0)

    h, w = x.shape[-2:]
    out = torch.zeros(*x.shape[:2], *out_hw, dtype=torch.float64)
    for row in range(out_hw[0]):
        for column in range(out_hw[1]):
            y, z = place(row, h, out_hw[0]), place(column, w, out_hw[1])
            for source_y in (math.floor(y), math.floor(y) + 1):
                for source_z in (math.floor(z), math.floor(z) + 1):
                    share = (1 - abs(y - source_y)) * (1 - abs(z - source_z))
                    out[:, :, row, column] += share * x[:, :, min(source_y, h - 1), min(source_z, w - 1)].double()
    return out


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("in_hw", "out_hw"), SIZES)
def test_resize_and_its_rows_match_a_loop_over_pixels(
    in_hw: tuple[int, int], out_hw: tuple[int, int], align_corners: bool
) -> None:
    x = torch.randn(2, 3, *in_hw, dtype=torch.float64)
    expected = resized_by_loops(x, out_hw, align_corners)
    bands = [
        resize_rows(x, out_hw, row, min(row + 4, out_hw[0]), align_corners=align_corners)
        for row in range(0, out_hw[0], 4)
    ]
    torch.testing.assert_close(resize(x, out_hw, align_corners=align_corners), expected)
    torch.testing.assert_close(torch.cat(bands, dim=2), expected)
    by_products = taps_matrix(in_hw[0], out_hw[0], align_corners=align_corners) @ x
    by_products = by_products @ taps_matrix(in_hw[1], out_hw[1], align_corners=align_corners).T
    torch.testing.assert_close(by_products, expected)


def test_rows_have_the_gradient_of_the_whole() -> None:
    x = torch.randn(1, 2, 7, 11, dtype=torch.float64, requires_grad=True)
    grad_output = torch.randn(1, 2, 5, 30, dtype=torch.float64)
    (whole,) = torch.autograd.grad(resize(x, (20, 30), align_corners=False)[:, :, 6:11], x, grad_output)
    (rows,) = torch.autograd.grad(resize_rows(x, (20, 30), 6, 11, align_corners=False), x, grad_output)
    torch.testing.assert_close(rows, whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rows_keep_the_dtype(dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, 7, 11).to(dtype)
    rows = resize_rows(x, (20, 30), 3, 9, align_corners=True)
    assert rows.dtype == dtype
    torch.testing.assert_close(rows, resize(x.double(), (20, 30), align_corners=True)[:, :, 3:9].to(dtype))


def test_a_map_of_that_size_is_returned_as_it_is() -> None:
    x = torch.randn(1, 2, 7, 11)
    assert resize(x, (7, 11), align_corners=False) is x


def test_wrong_arguments_are_named() -> None:
    x = torch.randn(1, 2, 7, 11)
    with pytest.raises(ValueError, match=r"x: shape \(2, 7, 11\); expected `b c h w`"):
        resize(x[0], (5, 5), align_corners=False)
    with pytest.raises(ValueError, match=r"x: shape \(1, 2, 0, 11\)"):
        resize(x[:, :, :0], (5, 5), align_corners=False)
    with pytest.raises(ValueError, match=r"out_hw: \(0, 5\)"):
        resize(x, (0, 5), align_corners=False)
    with pytest.raises(ValueError, match="row_from, row_to: 4, 4"):
        resize_rows(x, (5, 5), 4, 4, align_corners=False)
