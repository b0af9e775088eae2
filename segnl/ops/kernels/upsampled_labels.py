"""The labels of ops/upsampled_labels.py on the CPU, cell by cell; benchmarks/eval.py measures what the cells gain.

A cell is the square between four neighbouring positions of the logits. Inside it a score is the weighted mean of its
four corners, with the same weights for every class. So a class that leads at all four corners by more than the rounding
of the means leads everywhere inside, and its label is copied. The other cells are hard: those where two classes beat
all others are interpolated for these two alone, and only the rest for all classes.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.ops.resize import taps

MIN_CELL_PIXELS = 4
"""Pixels in a cell from which on cells can gain."""

MAX_HARD_SHARE = 0.5
"""Share of hard cells up to which cells are faster than rows. With MANY_CLASSES they always are (noise, 512x1024, one
core: 215 ms by rows and 357 by cells at 19 classes, 632 and 586 at 60, 1665 and 1064 at 150)."""

MANY_CLASSES = 60

CHUNK_NUMBERS = 2**20
"""Scores gathered at a time, about what a processor's cache takes."""

_Taps = tuple[Tensor, Tensor, Tensor]


def filled_by_cells(logits: Tensor, out: Tensor, *, align_corners: bool) -> bool:
    """Writes the winning classes of logits `b k h w`, upsampled, into out u8 `b H W` where cells are the faster way.

    Returns False, with out unchanged, where they are not.
    """
    if out.numel() < MIN_CELL_PIXELS * logits.numel() // logits.shape[1]:
        return False
    winner, is_hard = _cells(logits)
    if logits.shape[1] < MANY_CLASSES and float(is_hard.float().mean()) > MAX_HARD_SHARE:
        return False
    for image in range(logits.shape[0]):
        _fill(logits[image], winner[image], is_hard[image], out[image], align_corners=align_corners)
    return True


def _cells(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the winner at each position, i64 `b h w`, and whether the cell that begins there is hard, bool."""
    best, winner = logits.max(dim=1, keepdim=True)  # b 1 h w
    second = logits.scatter(1, winner, float("-inf")).amax(dim=1)  # b h w
    leads = best.squeeze(1) - second > _rounding(logits)
    winner = winner.squeeze(1)
    is_hard = ~functools.reduce(torch.logical_and, _corners(leads))
    for corner_winner in _corners(winner)[1:]:
        is_hard |= corner_winner != winner
    return winner, is_hard


def _corners(grid: Tensor) -> list[Tensor]:
    """Returns the four corners of each cell, `.. h w` each; beyond the last row and column these are repeated."""
    right, below = (torch.arange(1, length + 1).clamp(max=length - 1) for length in (grid.shape[-1], grid.shape[-2]))
    lower = grid.index_select(-2, below)
    return [grid, grid.index_select(-1, right), lower, lower.index_select(-1, right)]


class _Pairs(NamedTuple):
    """Cells within which one of two classes wins everywhere; a cell is numbered by its first corner, 0..hw-1.

    is_pair: bool `hw`.  low, high: the two classes, u8 `hw`.  lead: of high over low at the four corners, `hw 4`.
    """

    is_pair: Tensor
    low: Tensor
    high: Tensor
    lead: Tensor


def _pairs(scores: Tensor, winner: Tensor, is_hard: Tensor) -> _Pairs:
    """Finds the hard cells that two classes share; scores `hw k`, winner i64 `h w`, is_hard bool `h w`.

    A third class is beaten everywhere inside if one of the two, or their mean, beats it at all four corners: the better
    of the two is no worse than their mean.
    """
    h, w = winner.shape
    corners = [corner.flatten() for corner in _corners(torch.arange(h * w).view(h, w))]  # 4 of hw
    corner_winners = [winner.flatten().index_select(0, corner) for corner in corners]
    minimum = functools.partial(functools.reduce, torch.minimum)
    low, high = minimum(corner_winners), functools.reduce(torch.maximum, corner_winners)
    is_two = is_hard.flatten() & (low != high)
    for corner_winner in corner_winners:
        is_two &= (corner_winner == low) | (corner_winner == high)
    cells = is_two.nonzero()[:, 0]
    lead, is_pair = scores.new_zeros(h * w, 4), torch.zeros(h * w, dtype=torch.bool)
    # An empty tensor splits into one empty chunk, which has no largest score.
    for chunk in torch.split(cells, max(1, CHUNK_NUMBERS // (8 * scores.shape[1]))) if len(cells) else ():
        at = [scores.index_select(0, corner[chunk]) for corner in corners]  # 4 of cells k
        of_low = [x.gather(1, low[chunk, None]) for x in at]  # 4 of cells 1
        of_high = [x.gather(1, high[chunk, None]) for x in at]
        means = [(x + y) / 2 for x, y in zip(of_low, of_high, strict=True)]
        rounding = _rounding(torch.stack(at))
        is_beaten = torch.zeros_like(at[0], dtype=torch.bool)
        for leader in (of_low, of_high, means):
            is_beaten |= minimum([x - y for x, y in zip(leader, at, strict=True)]) > rounding
        is_beaten.scatter_(1, torch.stack([low[chunk], high[chunk]], dim=1), True)
        is_pair[chunk] = is_beaten.all(dim=1)
        lead[chunk] = torch.cat(of_high, dim=1) - torch.cat(of_low, dim=1)
    return _Pairs(is_pair, low.to(torch.uint8), high.to(torch.uint8), lead)


def _rounding(scores: Tensor) -> Tensor:
    """Returns the largest error of two interpolations of such scores; with inf or NaN among them nothing exceeds it."""
    return 32 * torch.finfo(scores.dtype).eps * scores.abs().amax()


def _fill(logits: Tensor, winner: Tensor, is_hard: Tensor, out: Tensor, *, align_corners: bool) -> None:
    """Labels one image, logits `k h w`, into out u8 `H W`."""
    _, h, w = logits.shape
    above, below, row_share = taps(h, out.shape[0], align_corners=align_corners)
    left, right, column_share = taps(w, out.shape[1], align_corners=align_corners)
    rows = above * w, below * w, row_share.to(logits.dtype)
    columns = left, right, column_share.to(logits.dtype)
    scores = logits.flatten(1).t().contiguous()  # hw k: all that a pixel reads of a position is contiguous
    pairs = _pairs(scores, winner, is_hard)
    is_pair = pairs.is_pair.view(h, w)
    label_of, hard_of, pair_of = (
        cells.index_select(1, left) for cells in (winner.to(torch.uint8), is_hard & ~is_pair, is_pair)
    )  # h W
    step = max(1, 2**18 // out.shape[1])
    for first in range(0, out.shape[0], step):
        source, band = above[first : first + step], out[first : first + step]
        torch.index_select(label_of, 0, source, out=band)
        flat = band.view(-1)
        for pixel, y, x in _pixels(pair_of.index_select(0, source), first, CHUNK_NUMBERS // 8):
            flat.index_copy_(0, pixel, _labels_of_two(pairs, rows, columns, y, x))
        for pixel, y, x in _pixels(hard_of.index_select(0, source), first, CHUNK_NUMBERS // scores.shape[1]):
            flat.index_copy_(0, pixel, _labels_of_all(scores, rows, columns, y, x))


def _pixels(is_chosen: Tensor, first: int, most: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields at most so many chosen pixels at a time, of a band `rows W` that begins at row `first`.

    Each as i64: place in the band, row, column.
    """
    # torch's nonzero takes three times as long.
    for pixel in torch.split(torch.from_numpy(np.flatnonzero(is_chosen.numpy())), max(1, most)):
        row = pixel.div(is_chosen.shape[1], rounding_mode="floor")
        yield pixel, row + first, pixel - row * is_chosen.shape[1]


# Below, `rows` are the two neighbours of each output row, as places in `hw`, and the second one's share; `columns` too.


def _labels_of_two(pairs: _Pairs, rows: _Taps, columns: _Taps, y: Tensor, x: Tensor) -> Tensor:
    """Returns the labels u8 of pixels inside pairs."""
    cell = rows[0].index_select(0, y) + columns[0].index_select(0, x)
    u, v = columns[2].index_select(0, x), rows[2].index_select(0, y)
    lead = pairs.lead.index_select(0, cell).unbind(1)  # 4 of pixels
    is_high = torch.lerp(torch.lerp(lead[0], lead[1], u), torch.lerp(lead[2], lead[3], u), v) > 0
    return torch.where(is_high, pairs.high.index_select(0, cell), pairs.low.index_select(0, cell))


def _labels_of_all(scores: Tensor, rows: _Taps, columns: _Taps, y: Tensor, x: Tensor) -> Tensor:
    """Returns the labels u8 of any pixels, from scores `hw k`."""
    top, bottom, v = (of_row.index_select(0, y) for of_row in rows)
    left, right, u = (of_column.index_select(0, x) for of_column in columns)
    corners = torch.stack([top + left, top + right, bottom + left, bottom + right], dim=1)  # pixels 4
    shares = torch.stack([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u], dim=1)
    mixed = F.embedding_bag(corners, scores, per_sample_weights=shares, mode="sum")  # pixels k
    return mixed.max(dim=1)[1].to(torch.uint8)
