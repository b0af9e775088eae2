"""The labels of ops/upsampled_labels.py on the CPU, cell by cell; benchmarks/eval.py measures what the cells gain.

A cell is the square between four neighbouring positions of the logits. Inside it a score is the weighted mean of its
four corners, with the same weights for every class. So a class that leads at all four corners by more than the rounding
of the means leads everywhere inside, and its label is copied. The pixels of the other cells, the hard ones, are
interpolated for all classes.
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.ops.resize import taps

MIN_CELL_PIXELS = 4
"""Pixels in a cell from which on cells can gain."""

MAX_HARD_SHARE = 0.5
"""Share of hard cells up to which cells are faster than rows. With MANY_CLASSES they always are (noise, 64x64 to
512x512, one core: 21 ms by rows and 25 by cells at 19 classes, 108 and 62 at 60, 229 and 89 at 150)."""

MANY_CLASSES = 60

CHUNK_NUMBERS = 2**20
"""Scores gathered at a time, about what a processor's cache takes."""


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


def _rounding(scores: Tensor) -> Tensor:
    """Returns the largest error of two interpolations of such scores; with inf or NaN among them nothing exceeds it."""
    return 32 * torch.finfo(scores.dtype).eps * scores.abs().amax()


def _fill(logits: Tensor, winner: Tensor, is_hard: Tensor, out: Tensor, *, align_corners: bool) -> None:
    """Labels one image, logits `k h w`, into out u8 `H W`."""
    (k, h, w), (out_h, out_w) = logits.shape, out.shape
    rows, columns = taps(h, out_h, align_corners=align_corners), taps(w, out_w, align_corners=align_corners)
    label_of, hard_of = (cells.index_select(1, columns[0]) for cells in (winner.to(torch.uint8), is_hard))  # h W
    torch.index_select(label_of, 0, rows[0], out=out)
    # torch's nonzero takes three times as long.
    hard = torch.from_numpy(np.flatnonzero(hard_of.index_select(0, rows[0]).numpy()))
    scores = logits.flatten(1).t().contiguous()  # hw k: all that a pixel reads of a position is contiguous
    for pixel in hard.split(max(1, CHUNK_NUMBERS // k)):
        y = pixel.div(out_w, rounding_mode="floor")
        above, below, v = (of_row.index_select(0, y) for of_row in rows)
        left, right, u = (of_column.index_select(0, pixel - y * out_w) for of_column in columns)
        corners = torch.stack([above * w + left, above * w + right, below * w + left, below * w + right], dim=1)
        shares = torch.stack([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u], dim=1).to(scores.dtype)  # pixels 4
        mixed = F.embedding_bag(corners, scores, per_sample_weights=shares, mode="sum")  # pixels k
        out.view(-1).index_copy_(0, pixel, mixed.max(dim=1)[1].to(torch.uint8))
