"""The tiles against resizing everything, and their way back against autograd's."""

import pytest
import torch
from torch import Tensor

from segnl.ops import pixel_tiles
from segnl.ops.pixel_tiles import PixelTiles
from segnl.ops.resize import resize

HW = (33, 50)


def draw(in_hw: tuple[int, int] = (7, 11)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, *in_hw, dtype=torch.float64, generator=generator)


def small(monkeypatch: pytest.MonkeyPatch, numbers: int, block: int) -> None:
    monkeypatch.setattr(pixel_tiles, "TILE_NUMBERS", numbers)
    monkeypatch.setattr(pixel_tiles, "BLOCK_COLUMNS", block)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("in_hw", [(7, 11), (1, 11), (7, 1), HW, (40, 60), (4, 3)])
@pytest.mark.parametrize(("numbers", "block"), [(1, 13), (1 << 10, 50), (1 << 18, 13), (1 << 18, 128)])
@pytest.mark.parametrize("band_rows", [None, 1, 6])
def test_tiles_are_what_resizing_gives_and_cover_every_pixel_once(
    align_corners: bool,
    in_hw: tuple[int, int],
    numbers: int,
    block: int,
    band_rows: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small(monkeypatch, numbers, block)
    scores = draw(in_hw)
    whole = resize(scores, HW, align_corners=align_corners)
    seen = torch.zeros(2, *HW)
    for tile in PixelTiles(scores, HW, band_rows, align_corners=align_corners):
        here = whole[tile.images, :, tile.rows, tile.columns].permute(2, 0, 1, 3)  # rows b k columns
        torch.testing.assert_close(tile.up, here, rtol=1e-12, atol=1e-14)
        seen[tile.images, tile.rows, tile.columns] += 1
        assert band_rows is None or tile.up.shape[0] <= band_rows
    assert (seen == 1).all()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("in_hw", [(7, 11), (1, 11), (7, 1), HW, (40, 60), (4, 3)])
@pytest.mark.parametrize(("numbers", "block"), [(1, 13), (1 << 10, 50), (1 << 18, 13)])
def test_gradient_is_upsampling_transposed(
    align_corners: bool, in_hw: tuple[int, int], numbers: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, numbers, block)
    scores = draw(in_hw).requires_grad_()
    whole = resize(scores, HW, align_corners=align_corners)
    coming = torch.randn(whole.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (exact,) = torch.autograd.grad(whole, scores, coming)
    tiles = PixelTiles(scores.detach(), HW, None, align_corners=align_corners, wants_gradient=True)
    for tile in tiles:
        tile.up.copy_(coming[tile.images, :, tile.rows, tile.columns].permute(2, 0, 1, 3))
    torch.testing.assert_close(tiles.gradient(), exact, rtol=1e-11, atol=1e-12)


def test_place_is_that_of_the_first_class(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, 1, 13)
    for tile in PixelTiles(draw(), HW, 6, align_corners=False):
        first = tile.up.flatten()[tile.place.long().flatten()].view(tile.place.shape)
        assert first.equal(tile.up[:, :, 0])


def test_a_tile_stays_small_whatever_the_sizes() -> None:
    for shape, out_hw in (
        ((2, 150, 64, 64), (512, 512)),
        ((1, 19, 97, 97), (769, 769)),
        ((1, 150, 128, 256), (1024, 2048)),
    ):
        tiles = PixelTiles(torch.empty(shape), out_hw, None, align_corners=False)
        assert tiles.up.numel() <= 1.5 * pixel_tiles.TILE_NUMBERS
        assert tiles.wide.numel() <= 1.5 * pixel_tiles.TILE_NUMBERS


def test_a_gradient_must_have_been_wanted() -> None:
    with pytest.raises(RuntimeError, match="expected wants_gradient=True"):
        PixelTiles(draw(), HW, None, align_corners=False).gradient()
