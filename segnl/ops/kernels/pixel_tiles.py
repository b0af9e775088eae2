"""Upsampled logits, one tile at a time on the CPU, and the way back for their gradient.

A band is a run of output rows (or columns) and the source rows (columns) that it is interpolated from. A tile is where
one band of rows crosses a few neighbouring bands of columns: at most TILE_NUMBERS logits, so that it stays in a core's
cache while the loss passes over it several times.

                      output columns                      source            wide                tile
                | band | band | band | band |
          ------+-------------+-------------+             +-----+         +---------+         +---------+
    output band |    tile     |    tile     |             |     | columns |         |  rows   |         |
      rows      |             |             |           h |     | ------> | h       | ------> | rows    |
          ------+-------------+-------------+             |     | product |         | blend   |         |
           band |    tile     |    tile     |             +-----+ a band  +---------+ of two  +---------+
          ------+-------------+-------------+                w            columns     rows      columns

Columns come first: a dense product for each band of columns, which touches few source columns, makes wide rows. An
output row is then a blend of two wide rows, one multiply-add a number. The gradient returns by the transposed products:
every tile adds to its wide rows, and these are added to the source rows when all bands that use them are done.

A tile lies as `rows k columns`, so that an operation on a row runs through all of its classes in one stretch of memory.
All tiles share one allocation: asking the system for new memory costs more than the arithmetic. Every sum is taken in a
fixed order, so that equal inputs give equal bits.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from segnl.ops.resize import taps, taps_matrix

TILE_NUMBERS = 1 << 18
"""Upsampled logits in a tile: 1 MB in float32, about a core's second-level cache."""

MIN_BAND_ROWS = 16
"""Neighbouring bands of rows share source rows at their ends; thinner bands would share too many."""

MAX_BAND_COLUMNS = 128
"""The cost of a band's dense product grows with the square of its columns."""


class Tile(NamedTuple):
    """A tile: upsampled logits and their position.

    image, rows, columns: its position in `b H W`.  logits: `rows k columns`.
    """

    image: int
    rows: slice
    columns: slice
    logits: Tensor


class Band(NamedTuple):
    """A run of outputs along an axis, their sources, and the sources' shares `source out`.

    blends: in bands of rows, runs of rows between the same two source rows: (rows, above, below, share of the one below
    `rows 1`).
    """

    out: slice
    source: slice
    shares: Tensor
    blends: Sequence[tuple[slice, int, int, Tensor]] = ()


class PixelTiles:
    """The tiles of `b k h w` logits upsampled to out_hw, and their gradient.

    Every tile overwrites the logits of the one before. With wants_gradient, the caller replaces a tile's logits by the
    gradient with respect to them before it takes the next tile; `gradient` then returns the gradient of all logits.
    """

    def __init__(
        self, logits: Tensor, out_hw: Sequence[int], *, align_corners: bool, wants_gradient: bool = False
    ) -> None:
        (_, self.num_classes, h, w), (out_h, out_w) = logits.shape, out_hw
        pixels = TILE_NUMBERS // self.num_classes
        columns = _even(out_w, max(MAX_BAND_COLUMNS, pixels // MIN_BAND_ROWS))
        rows = max(MIN_BAND_ROWS, pixels // columns)
        self.column_groups = _column_bands(w, out_w, columns, MAX_BAND_COLUMNS, align_corners, logits.dtype)
        self.row_groups = _row_bands(h, out_h, rows, pixels // columns, align_corners, logits.dtype)
        self.source = logits.permute(0, 2, 1, 3).contiguous()  # b h k w
        self.wants_gradient = wants_gradient
        self.source_grad = torch.zeros_like(self.source) if wants_gradient else logits.new_empty(0)
        row_numbers = self.num_classes * columns
        most_rows = max(_length(band.out) for group in self.row_groups for band in group)
        most_wide = max(_length(_span(group)[1]) for group in self.row_groups)
        self.tile_memory = logits.new_empty(most_rows * row_numbers)
        self.wide_memory = logits.new_empty(most_wide * row_numbers)
        self.wide_grad_memory = torch.empty_like(self.wide_memory) if wants_gradient else logits.new_empty(0)

    def __iter__(self) -> Iterator[Tile]:
        for image, source in enumerate(self.source):
            for columns in self.column_groups:
                out, _ = _span(columns)
                for rows in self.row_groups:
                    _, source_rows = _span(rows)
                    wide = self._widen(source[source_rows], columns)
                    if self.wants_gradient:
                        wide_grad = self.wide_grad_memory[: wide.numel()].view_as(wide).zero_()
                    for band in rows:
                        blended = self._blend(wide, band, source_rows.start)
                        yield Tile(image, band.out, out, blended.unflatten(1, (self.num_classes, -1)))
                        if self.wants_gradient:
                            wide_grad[_shifted(band.source, source_rows.start)].addmm_(band.shares, blended)
                    if self.wants_gradient:
                        self._narrow(wide_grad, self.source_grad[image, source_rows], columns)

    def gradient(self) -> Tensor:
        """Returns the gradient `b k h w`, once all tiles have been taken with wants_gradient."""
        return self.source_grad.permute(0, 2, 1, 3).contiguous()

    def _widen(self, source: Tensor, columns: Sequence[Band]) -> Tensor:
        """Interpolates the columns of source rows `rows k w`. Returns `rows k*columns`."""
        out, _ = _span(columns)
        flat = source.flatten(0, 1)
        wide = self.wide_memory[: len(flat) * _length(out)].view(len(flat), -1)
        for band in columns:
            torch.mm(flat[:, band.source], band.shares, out=wide[:, _shifted(band.out, out.start)])
        return wide.view(len(source), -1)

    def _blend(self, wide: Tensor, band: Band, first: int) -> Tensor:
        """Interpolates a band's rows `rows k*columns` from wide rows, which begin with the source row `first`."""
        tile = self.tile_memory[: _length(band.out) * wide.shape[1]].view(-1, wide.shape[1])
        for rows, above, below, share in band.blends:
            upper, lower = wide[above - first], wide[below - first]
            torch.addcmul(upper, share, lower - upper, out=tile[rows])
        return tile

    @staticmethod
    def _narrow(wide_grad: Tensor, source_grad: Tensor, columns: Sequence[Band]) -> None:
        """Adds wide rows' gradient to that of their source rows `rows k w`: the transpose of `_widen`."""
        out, _ = _span(columns)
        flat = source_grad.flatten(0, 1)
        wide_grad = wide_grad.view(len(flat), -1)
        for band in columns:
            flat[:, band.source].addmm_(wide_grad[:, _shifted(band.out, out.start)], band.shares.mT)


@lru_cache(maxsize=16)
def _column_bands(
    w: int, out_w: int, tile_columns: int, band_columns: int, align_corners: bool, dtype: torch.dtype
) -> list[list[Band]]:
    """Cuts out_w columns into groups for a tile each, and every group into bands of about equal width."""
    matrix = taps_matrix(w, out_w, align_corners=align_corners)
    groups = []
    for start in range(0, out_w, tile_columns):
        stop = min(start + tile_columns, out_w)
        width = _even(stop - start, band_columns)
        bands = []
        for first in range(start, stop, width):
            out = slice(first, min(first + width, stop))
            touched = matrix[out].any(dim=0).nonzero()
            source = slice(int(touched[0]), int(touched[-1]) + 1)
            bands.append(Band(out, source, matrix[out, source].mT.to(dtype).contiguous()))
        groups.append(bands)
    return groups


@lru_cache(maxsize=16)
def _row_bands(
    h: int, out_h: int, band_rows: int, wide_rows: int, align_corners: bool, dtype: torch.dtype
) -> list[list[Band]]:
    """Cuts out_h rows into bands, and groups as many bands as need no more than wide_rows source rows together."""
    matrix = taps_matrix(h, out_h, align_corners=align_corners)
    above, below, share = taps(h, out_h, align_corners=align_corners)
    upper, lower = above.tolist(), below.tolist()
    share = share[:, None].to(dtype)
    groups: list[list[Band]] = []
    for rows in _cut_rows(upper, band_rows):
        source = slice(upper[rows.start], lower[rows.stop - 1] + 1)
        runs = _runs(upper, rows)
        blends = [(_shifted(run, rows.start), upper[run.start], lower[run.start], share[run]) for run in runs]
        band = Band(rows, source, matrix[rows, source].mT.to(dtype).contiguous(), blends)
        if groups and source.stop - groups[-1][0].source.start <= wide_rows:
            groups[-1].append(band)
        else:
            groups.append([band])
    return groups


def _cut_rows(above: list[int], most: int) -> Iterator[slice]:
    """Yields bands of at most so many rows, cut where the source row above changes if that keeps over half of them."""
    start = 0
    while start < len(above):
        stop = min(start + most, len(above))
        if stop < len(above):
            changes = (row for row in range(stop, start + most // 2, -1) if above[row] != above[row - 1])
            stop = next(changes, stop)
        yield slice(start, stop)
        start = stop


def _runs(above: list[int], rows: slice) -> Iterator[slice]:
    """Yields the runs of a band's rows that have the same source row above them."""
    start = rows.start
    for row in range(rows.start + 1, rows.stop + 1):
        if row == rows.stop or above[row] != above[start]:
            yield slice(start, row)
            start = row


def _span(bands: Sequence[Band]) -> tuple[slice, slice]:
    """Returns the outputs and the sources of neighbouring bands."""
    first, last = bands[0], bands[-1]
    return slice(first.out.start, last.out.stop), slice(first.source.start, last.source.stop)


def _shifted(positions: slice, start: int) -> slice:
    return slice(positions.start - start, positions.stop - start)


def _length(positions: slice) -> int:
    return int(positions.stop - positions.start)


def _even(num: int, most: int) -> int:
    """Returns the length that cuts num into as few, about equal lengths of at most `most` as possible."""
    return -(-num // -(-num // most))
