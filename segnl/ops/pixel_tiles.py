"""Upsampled logits, one tile at a time, and the way back for their gradient.

A tile is a band of output rows by a strip of columns, small enough to stay in a core's cache from one pass over it to
the next. It lies as `rows b k columns`: what is done to a row is done to all of its classes in one run of memory.
Columns are interpolated first: a slab of source rows is widened to the strip by dense products, each for a block of
columns that touches few source columns. An output row is then a weighted mean of two wide rows, one multiply-add a
number. The gradient returns by the transposed products: every band adds to its slab's wide rows, and these are added to
the source rows when the slab is done. All tiles use one piece of memory, so that none has to be asked from the system,
which costs more than the arithmetic does; and every sum is taken in one order, so that equal input gives equal bits.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from segnl.ops.resize import taps, taps_matrix

TILE_NUMBERS = 1 << 18
"""Upsampled logits in a tile on the CPU: 1 MB in float32, about a core's second-level cache."""

DEVICE_NUMBERS = 1 << 23
"""The same on a GPU, which wants few large steps."""

BAND_ROWS = 16
"""Rows of a band at least: its two ends share source rows with its neighbours."""

BLOCK_COLUMNS = 128
"""Columns made by one dense product, whose cost grows with their square."""


class Tile(NamedTuple):
    """images, rows, columns: where the tile lies in `b H W`.  up: its numbers `rows b k columns`.

    place: int32 `rows b columns`, where in the flattened numbers each pixel's first class lies.
    """

    images: slice
    rows: slice
    columns: slice
    up: Tensor
    place: Tensor


class _Block(NamedTuple):
    """Columns of a strip, the source columns that they are made from, and the shares `source out`."""

    out: slice
    source: slice
    shares: Tensor


class _Strip(NamedTuple):
    out: slice
    blocks: list[_Block]


class _Gap(NamedTuple):
    """Those rows of a band that lie between two wide rows of its slab, and the second one's share, `rows 1`."""

    rows: slice
    above: int
    below: int
    share: Tensor


class _Band(NamedTuple):
    """Output rows, the wide rows of the slab that they are made from, and the shares `wide out`."""

    out: slice
    wide: slice
    gaps: list[_Gap]
    shares: Tensor


class _Slab(NamedTuple):
    source: slice
    bands: list[_Band]


class _Cut(NamedTuple):
    """How `b k h w` is cut: images at a time; at most so many columns in a strip and in its blocks, rows in a band, and
    source rows in a slab of more than one band."""

    images: int
    columns: int
    block: int
    rows: int
    slab_rows: int


class PixelTiles:
    """The tiles of `b k h w` upsampled to out_hw, and their gradient where it is wanted.

    Each tile's numbers are overwritten by the next one's. With wants_gradient, what the caller has put in their place
    by then is taken as the gradient with respect to them, and `gradient` returns the sum of what all tiles gave.
    band_rows: at most so many output rows in a tile, or None: what the cache holds, and at least BAND_ROWS.
    """

    def __init__(
        self,
        scores: Tensor,
        out_hw: Sequence[int],
        band_rows: int | None,
        *,
        align_corners: bool,
        wants_gradient: bool = False,
    ) -> None:
        self.cut = _cut(scores.shape, out_hw, band_rows, is_cpu=scores.device.type == "cpu")
        (h, w), (out_h, out_w) = scores.shape[2:], out_hw
        self.strips = _strips(w, out_w, self.cut, align_corners, scores.dtype, scores.device)
        self.slabs = _slabs(h, out_h, self.cut, align_corners, scores.dtype, scores.device)
        # groups h b*k w: a slab's rows are one matrix
        grouped = scores.unflatten(0, (-1, self.cut.images)).permute(0, 3, 1, 2, 4)
        self.scores = grouped.flatten(2, 3).contiguous()
        self.of_row = (self.cut.images, scores.shape[1])
        self.grad = torch.zeros_like(self.scores) if wants_gradient else None
        row_numbers = self.scores.shape[2] * self.cut.columns
        most_rows = max(_length(band.out) for slab in self.slabs for band in slab.bands)
        most_wide = max(_length(slab.source) for slab in self.slabs)
        self.up = scores.new_empty(most_rows * row_numbers)
        self.wide = scores.new_empty(most_wide * row_numbers)
        self.wide_grad = torch.empty_like(self.wide) if wants_gradient else None
        self.first = torch.arange(most_rows * self.cut.images, device=scores.device, dtype=torch.int32)[:, None]
        self.column = torch.arange(self.cut.columns, device=scores.device, dtype=torch.int32)

    def __iter__(self) -> Iterator[Tile]:
        for group in range(self.scores.shape[0]):
            images = slice(group * self.cut.images, (group + 1) * self.cut.images)
            for strip in self.strips:
                columns = _length(strip.out)
                place = self.first * (self.of_row[1] * columns) + self.column[:columns]
                place = place.unflatten(0, (-1, self.of_row[0]))  # of the longest band; others have its first rows
                for slab in self.slabs:
                    wide = self._widen(group, slab, strip)
                    wide_grad = None
                    if self.wide_grad is not None:
                        wide_grad = self.wide_grad[: wide.numel()].view_as(wide).zero_()
                    for band in slab.bands:
                        up = self._between(wide, band)
                        tile = up.unflatten(1, (*self.of_row, columns))
                        yield Tile(images, band.out, strip.out, tile, place[: tile.shape[0]])
                        if wide_grad is not None:
                            wide_grad[band.wide].addmm_(band.shares, up)
                    if wide_grad is not None and self.grad is not None:
                        self._narrow(wide_grad, self.grad[group, slab.source], strip)

    def gradient(self) -> Tensor:
        """`b k h w`, once all tiles have been seen.

        Raises RuntimeError where none was wanted.
        """
        if self.grad is None:
            raise RuntimeError("PixelTiles: no gradient; expected wants_gradient=True")
        grad: Tensor = self.grad.unflatten(2, self.of_row)
        return grad.permute(0, 2, 3, 1, 4).flatten(0, 1).contiguous()

    def _widen(self, group: int, slab: _Slab, strip: _Strip) -> Tensor:
        """The slab's source rows with the strip's columns, `rows b*k*columns`."""
        source = self.scores[group, slab.source].flatten(0, 1)
        columns = _length(strip.out)
        wide = self.wide[: source.shape[0] * columns].view(-1, columns)
        for block in strip.blocks:
            torch.mm(source[:, block.source], block.shares, out=wide[:, block.out])
        return wide.view(_length(slab.source), -1)

    def _between(self, wide: Tensor, band: _Band) -> Tensor:
        """The band's rows `rows b*k*columns`, each between two wide ones."""
        up = self.up[: _length(band.out) * wide.shape[1]].view(-1, wide.shape[1])
        for gap in band.gaps:
            above, below = wide[gap.above], wide[gap.below]
            torch.addcmul(above, gap.share, below - above, out=up[gap.rows])
        return up

    @staticmethod
    def _narrow(wide_grad: Tensor, grad: Tensor, strip: _Strip) -> None:
        """Adds a slab's wide gradient to that of its source rows `rows b*k w`: `_widen`, transposed."""
        grad = grad.flatten(0, 1)
        wide_grad = wide_grad.view(grad.shape[0], -1)
        for block in strip.blocks:
            grad[:, block.source].addmm_(wide_grad[:, block.out], block.shares.mT)


def upsampling_flops(
    shape: Sequence[int], out_hw: Sequence[int], band_rows: int | None, *, align_corners: bool
) -> tuple[int, int]:
    """Floating point operations of all tiles of `b k h w` on the CPU, and of their gradient's way back."""
    b, k, h, w = shape
    cut = _cut(shape, out_hw, band_rows, is_cpu=True)
    strips = _strips(w, out_hw[1], cut, align_corners, torch.float32, torch.device("cpu"))
    slabs = _slabs(h, out_hw[0], cut, align_corners, torch.float32, torch.device("cpu"))
    widening = sum(block.shares.numel() for strip in strips for block in strip.blocks)
    widening *= sum(_length(slab.source) for slab in slabs)
    down = sum(band.shares.numel() for slab in slabs for band in slab.bands) * out_hw[1]
    return 2 * b * k * (widening + out_hw[0] * out_hw[1]), 2 * b * k * (widening + down)


def _cut(shape: Sequence[int], out_hw: Sequence[int], band_rows: int | None, *, is_cpu: bool) -> _Cut:
    images, numbers = (1, TILE_NUMBERS) if is_cpu else (shape[0], DEVICE_NUMBERS)
    numbers //= images * shape[1]  # pixels
    columns = _even(out_hw[1], max(BLOCK_COLUMNS, numbers // BAND_ROWS))
    rows = max(BAND_ROWS, numbers // columns) if band_rows is None else band_rows
    return _Cut(images, columns, BLOCK_COLUMNS, rows, numbers // columns)


@lru_cache(maxsize=16)
def _strips(
    w: int, out_w: int, cut: _Cut, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> list[_Strip]:
    matrix = taps_matrix(w, out_w, align_corners=align_corners)
    strips = []
    for start in range(0, out_w, cut.columns):
        stop = min(start + cut.columns, out_w)
        width = _even(stop - start, cut.block)
        blocks = []
        for first in range(start, stop, width):
            out = slice(first, min(first + width, stop))
            source = _touched(matrix[out])
            shares = matrix[out, source].mT.to(device, dtype).contiguous()
            blocks.append(_Block(slice(out.start - start, out.stop - start), source, shares))
        strips.append(_Strip(slice(start, stop), blocks))
    return strips


@lru_cache(maxsize=16)
def _slabs(h: int, out_h: int, cut: _Cut, align_corners: bool, dtype: torch.dtype, device: torch.device) -> list[_Slab]:
    """As many bands to a slab as its wide rows allow."""
    matrix = taps_matrix(h, out_h, align_corners=align_corners)
    above, below, share = taps(h, out_h, align_corners=align_corners)
    lower, upper = above.tolist(), below.tolist()
    share = share[:, None].to(device, dtype)
    slabs: list[_Slab] = []
    for rows in _bands(lower, cut.rows):
        source = slice(lower[rows.start], upper[rows.stop - 1] + 1)
        if slabs and source.stop - slabs[-1].source.start <= cut.slab_rows:
            slabs[-1] = _Slab(slice(slabs[-1].source.start, source.stop), slabs[-1].bands)
        else:
            slabs.append(_Slab(source, []))
        first = slabs[-1].source.start
        gaps = [
            _Gap(
                slice(gap.start - rows.start, gap.stop - rows.start),
                lower[gap.start] - first,
                upper[gap.start] - first,
                share[gap],
            )
            for gap in _gaps(lower, rows)
        ]
        shares = matrix[rows, source].mT.to(device, dtype).contiguous()
        slabs[-1].bands.append(_Band(rows, slice(source.start - first, source.stop - first), gaps, shares))
    return slabs


def _bands(lower: list[int], most: int) -> Iterator[slice]:
    """At most so many rows each, cut where the row above changes if that keeps more than half of them."""
    start = 0
    while start < len(lower):
        stop = min(start + most, len(lower))
        if stop < len(lower):
            changes = (row for row in range(stop, start + most // 2, -1) if lower[row] != lower[row - 1])
            stop = next(changes, stop)
        yield slice(start, stop)
        start = stop


def _gaps(lower: list[int], rows: slice) -> Iterator[slice]:
    """The runs of a band's rows that share the row above."""
    start = rows.start
    for row in range(rows.start + 1, rows.stop + 1):
        if row == rows.stop or lower[row] != lower[start]:
            yield slice(start, row)
            start = row


def _touched(shares: Tensor) -> slice:
    """From the first to the last source position that has a share."""
    positions = shares.any(dim=0).nonzero()
    return slice(int(positions[0]), int(positions[-1]) + 1)


def _length(of: slice) -> int:
    return int(of.stop - of.start)


def _even(num: int, most: int) -> int:
    """The length of the parts of num, about equal ones and as few as can be."""
    return -(-num // -(-num // most))
