"""The tiles against resizing everything, and their gradient against autograd's."""

import pytest
import torch
from torch import Tensor

from segnl.ops.kernels import pixel_tiles
from segnl.ops.kernels.pixel_tiles import PixelTiles
from segnl.ops.resize import resize

HW = (33, 50)


def draw(in_hw: tuple[int, int] = (7, 11)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, *in_hw, dtype=torch.float64, generator=generator)


def set_sizes(monkeypatch: pytest.MonkeyPatch, numbers: int, band_columns: int, band_rows: int = 16) -> None:
    monkeypatch.setattr(pixel_tiles, "TILE_NUMBERS", numbers)
    monkeypatch.setattr(pixel_tiles, "MIN_BAND_ROWS", band_rows)
    monkeypatch.setattr(pixel_tiles, "MAX_BAND_COLUMNS", band_columns)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("in_hw", [(7, 11), (1, 11), (7, 1), HW, (40, 60), (4, 3)])
@pytest.mark.parametrize(("numbers", "band_columns"), [(1, 13), (1 << 10, 50), (1 << 18, 13), (1 << 18, 128)])
@pytest.mark.parametrize("band_rows", [1, 6, 16])
def test_tiles_equal_resizing_and_cover_every_pixel_once(
    align_corners: bool,
    in_hw: tuple[int, int],
    numbers: int,
    band_columns: int,
    band_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_sizes(monkeypatch, numbers, band_columns, band_rows)
    scores = draw(in_hw)
    whole = resize(scores, HW, align_corners=align_corners)
    seen = torch.zeros(2, *HW)
    for tile in PixelTiles(scores, HW, align_corners=align_corners):
        expected = whole[tile.image, :, tile.rows, tile.columns].transpose(0, 1)  # rows k columns
        torch.testing.assert_close(tile.logits, expected, rtol=1e-12, atol=1e-14)
        seen[tile.image, tile.rows, tile.columns] += 1
        assert numbers > 1 or len(tile.logits) <= band_rows
    assert (seen == 1).all()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("in_hw", [(7, 11), (1, 11), (7, 1), HW, (40, 60), (4, 3)])
@pytest.mark.parametrize(("numbers", "band_columns"), [(1, 13), (1 << 10, 50), (1 << 18, 13)])
def test_gradient_is_upsampling_transposed(
    align_corners: bool, in_hw: tuple[int, int], numbers: int, band_columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_sizes(monkeypatch, numbers, band_columns)
    scores = draw(in_hw).requires_grad_()
    whole = resize(scores, HW, align_corners=align_corners)
    grad_output = torch.randn(whole.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (expected,) = torch.autograd.grad(whole, scores, grad_output)
    tiles = PixelTiles(scores.detach(), HW, align_corners=align_corners, wants_gradient=True)
    for tile in tiles:
        tile.logits.copy_(grad_output[tile.image, :, tile.rows, tile.columns].transpose(0, 1))
    torch.testing.assert_close(tiles.gradient(), expected, rtol=1e-11, atol=1e-12)


def test_a_tile_stays_small_whatever_the_sizes() -> None:
    for shape, out_hw in (
        ((2, 150, 64, 64), (512, 512)),
        ((1, 19, 97, 97), (769, 769)),
        ((1, 150, 128, 256), (1024, 2048)),
    ):
        tiles = PixelTiles(torch.empty(shape), out_hw, align_corners=False)
        assert tiles.tile_memory.numel() <= 1.5 * pixel_tiles.TILE_NUMBERS
        assert tiles.wide_memory.numel() <= 1.5 * pixel_tiles.TILE_NUMBERS
