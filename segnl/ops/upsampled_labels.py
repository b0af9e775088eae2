"""Which class wins at each pixel of upsampled logits, without ever holding them upsampled: `b k h w` -> u8 `b H W`."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.ops.resize import resize_rows, taps

MAX_CLASSES = 255
# Floats of upsampled scores held at a time: about what a processor's cache takes; a GPU wants more at once.
BAND_FLOATS = 2**20
BAND_FLOATS_ON_DEVICE = 2**26
MIN_BAND_ROWS = 16  # thinner bands cost more in calls than they save in cache
# Beyond this share of cells that have to be computed, whole rows are quicker; with many classes they never are (noise,
# 512x1024, one core: 215 ms by rows and 357 by cells at 19 classes, 632 and 586 at 60, 1665 and 1064 at 150).
MAX_HARD_SHARE = 0.5
MANY_CLASSES = 60


def upsampled_labels(logits: Tensor, out_hw: tuple[int, int], *, align_corners: bool) -> Tensor:
    """The class with the greatest score at each pixel of `resize(logits, out_hw)`.

    logits: floating `b k h w`, k <= 255; half precision is upsampled in float32. Of equal scores the lowest class wins.
    Returns u8 `b H W` on the logits' device. Equal to upsampling everything and taking argmax, but for pixels where
    two scores are nearer than the rounding of one interpolation.

    Raises ValueError for more than 255 classes.
    """
    logits = logits.detach()
    logits = logits if logits.dtype == torch.float64 else logits.float()
    out = torch.empty(logits.shape[0], *out_hw, dtype=torch.uint8, device=logits.device)
    _check_classes(logits)
    if logits.device.type == "cpu" and out_hw[0] * out_hw[1] >= 4 * logits.shape[2] * logits.shape[3]:
        winner, is_hard = _cells(logits)
        if logits.shape[1] >= MANY_CLASSES or float(is_hard.float().mean()) <= MAX_HARD_SHARE:
            for image in range(logits.shape[0]):
                _fill_cells(logits[image], winner[image], is_hard[image], out[image], align_corners=align_corners)
            return out
    rows = band_rows(logits.shape[0], logits.shape[1], out_hw, logits.device)
    for row in range(0, out_hw[0], rows):
        end = min(row + rows, out_hw[0])
        out[:, row:end] = winners(resize_rows(logits, out_hw, row, end, align_corners=align_corners))
    return out


def winners(scores: Tensor) -> Tensor:
    """The class with the greatest score, u8 `b H W` from `b k H W`; of equal ones the lowest."""
    _check_classes(scores)
    # max(dim) walks memory in order where argmax does not, and returns the same first maximum (2.5 times as fast here).
    return scores.max(dim=1)[1].to(torch.uint8)


def band_rows(batch: int, num_classes: int, out_hw: tuple[int, int], device: torch.device) -> int:
    """How many output rows of such scores to hold at a time."""
    floats = BAND_FLOATS if device.type == "cpu" else BAND_FLOATS_ON_DEVICE
    return min(out_hw[0], max(MIN_BAND_ROWS, floats // (batch * num_classes * out_hw[1])))


def _check_classes(logits: Tensor) -> None:
    if logits.dim() != 4 or not 1 <= logits.shape[1] <= MAX_CLASSES:
        raise ValueError(f"logits: shape {tuple(logits.shape)}; expected `b k h w` of 1..{MAX_CLASSES} classes")


def _cells(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The winner at each position, i64 `b h w`, and whether the cell from it to the next ones needs computing, bool.

    Between four positions a bilinear score is their weighted mean, with the same weights for every class. So a class
    that leads at all four leads everywhere between, if by more than the rounding of the means.
    """
    best, winner = logits.max(dim=1, keepdim=True)  # b 1 h w
    second = logits.scatter(1, winner, float("-inf")).amax(dim=1)  # b h w
    leads = best.squeeze(1) - second > _rounding(logits)
    winner = winner.squeeze(1)
    is_hard = ~(leads & _next(leads, 1) & _next(leads, 2) & _next(_next(leads, 1), 2))
    for other in (_next(winner, 1), _next(winner, 2), _next(_next(winner, 1), 2)):
        is_hard |= other != winner
    return winner, is_hard


def _next(grid: Tensor, axis: int) -> Tensor:
    """Each position's next neighbour along an axis; the last one is its own."""
    length = grid.shape[axis]
    return grid.index_select(axis, torch.arange(1, length + 1).clamp(max=length - 1))


class _Pairs(NamedTuple):
    """Cells within which one of two classes wins everywhere; `hw` counts all cells, whose corner is the first one.

    is_pair: bool `hw`.  low, high: the two classes, u8 `hw`.  lead: of high over low at the four corners, `hw 4`.
    """

    is_pair: Tensor
    low: Tensor
    high: Tensor
    lead: Tensor


def _pairs(scores: Tensor, winner: Tensor, is_hard: Tensor) -> _Pairs:
    """scores: `hw k`; winner i64 `h w`; is_hard bool `h w`. Which of the hard cells two classes share.

    Another class that one of the two beats at all four corners is beaten everywhere between, and so is one that their
    mean beats: the better of the two is no worse than that.
    """
    h, w = winner.shape
    index = torch.arange(h * w).view(h, w)
    below = _next(index, 0)
    corners = [each.flatten() for each in (index, _next(index, 1), below, _next(below, 1))]  # 4 of hw
    winners_at = [winner.flatten().index_select(0, each) for each in corners]
    least = functools.partial(functools.reduce, torch.minimum)
    low, high = least(winners_at), functools.reduce(torch.maximum, winners_at)
    is_two = is_hard.flatten() & (low != high)
    for each in winners_at:
        is_two &= (each == low) | (each == high)
    cells = is_two.nonzero()[:, 0]
    lead, is_pair = scores.new_zeros(h * w, 4), torch.zeros(h * w, dtype=torch.bool)
    # Nothing, split, is one empty part, which has no largest score.
    for some in torch.split(cells, max(1, BAND_FLOATS // (8 * scores.shape[1]))) if len(cells) else ():
        at = [scores.index_select(0, each[some]) for each in corners]  # 4 of n k
        a, b = ([each.gather(1, one[some, None]) for each in at] for one in (low, high))  # 4 of n 1
        rounding = _rounding(torch.stack(at))
        is_beaten = least([one - each for one, each in zip(a, at, strict=True)]) > rounding
        is_beaten |= least([one - each for one, each in zip(b, at, strict=True)]) > rounding
        is_beaten |= least([(one + two) / 2 - each for one, two, each in zip(a, b, at, strict=True)]) > rounding
        is_beaten.scatter_(1, torch.stack([low[some], high[some]], dim=1), True)
        is_pair[some] = is_beaten.all(dim=1)
        lead[some] = torch.cat(b, dim=1) - torch.cat(a, dim=1)
    return _Pairs(is_pair, low.to(torch.uint8), high.to(torch.uint8), lead)


def _rounding(scores: Tensor) -> Tensor:
    """What two interpolations of such scores may differ by; with inf or NaN among them, what nothing exceeds."""
    return 32 * torch.finfo(scores.dtype).eps * scores.abs().amax()


def _fill_cells(logits: Tensor, winner: Tensor, is_hard: Tensor, out: Tensor, *, align_corners: bool) -> None:
    """Labels one image `k h w` into out u8 `H W`: copies where a cell has one class, interpolates the other pixels."""
    _, h, w = logits.shape
    above, below, row_share = taps(h, out.shape[0], align_corners=align_corners)
    left, right, column_share = taps(w, out.shape[1], align_corners=align_corners)
    grid = _Grid(above * w, below * w, row_share.to(logits.dtype), left, right, column_share.to(logits.dtype))
    scores = logits.flatten(1).t().contiguous()  # hw k: what a pixel needs of a position lies together
    pairs = _pairs(scores, winner, is_hard)
    is_pair = pairs.is_pair.view(h, w)
    label_of, hard_of, pair_of = (
        each.index_select(1, left) for each in (winner.to(torch.uint8), is_hard & ~is_pair, is_pair)
    )  # h W
    rows = max(1, 2**18 // out.shape[1])
    for first in range(0, out.shape[0], rows):
        source = above[first : first + rows]
        band = out[first : first + rows]
        torch.index_select(label_of, 0, source, out=band)
        flat = band.view(-1)
        for pixel, y, x in _pixels(pair_of.index_select(0, source), first, BAND_FLOATS // 8):
            flat.index_copy_(0, pixel, _labels_of_two(pairs, grid, y, x))
        for pixel, y, x in _pixels(hard_of.index_select(0, source), first, BAND_FLOATS // scores.shape[1]):
            flat.index_copy_(0, pixel, _labels_of_all(scores, grid, y, x))


class _Grid(NamedTuple):
    """The neighbours of each output row, as places in `hw`, and column, and the second ones' shares."""

    top: Tensor
    bottom: Tensor
    row_share: Tensor
    left: Tensor
    right: Tensor
    column_share: Tensor


def _pixels(chosen: Tensor, first: int, most: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The pixels chosen in a band `rows W` that begins at row `first`: place in the band, row, column, i64 each, at
    most so many at a time.
    """
    # Torch's nonzero takes three times as long.
    for pixel in torch.split(torch.from_numpy(np.flatnonzero(chosen.numpy())), max(1, most)):
        row = pixel.div(chosen.shape[1], rounding_mode="floor")
        yield pixel, row + first, pixel - row * chosen.shape[1]


def _labels_of_two(pairs: _Pairs, grid: _Grid, y: Tensor, x: Tensor) -> Tensor:
    """Of pixels within pairs, u8."""
    cell = grid.top.index_select(0, y) + grid.left.index_select(0, x)
    u, v = grid.column_share.index_select(0, x), grid.row_share.index_select(0, y)
    lead = pairs.lead.index_select(0, cell).unbind(1)  # 4 of pixels
    is_high = torch.lerp(torch.lerp(lead[0], lead[1], u), torch.lerp(lead[2], lead[3], u), v) > 0
    return torch.where(is_high, pairs.high.index_select(0, cell), pairs.low.index_select(0, cell))


def _labels_of_all(scores: Tensor, grid: _Grid, y: Tensor, x: Tensor) -> Tensor:
    """Of any pixels, u8, from scores `hw k`."""
    top, bottom, v = (each.index_select(0, y) for each in (grid.top, grid.bottom, grid.row_share))
    near, far, u = (each.index_select(0, x) for each in (grid.left, grid.right, grid.column_share))
    corners = torch.stack([top + near, top + far, bottom + near, bottom + far], dim=1)  # pixels 4
    shares = torch.stack([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u], dim=1)
    mixed = F.embedding_bag(corners, scores, per_sample_weights=shares, mode="sum")  # pixels k
    return mixed.max(dim=1)[1].to(torch.uint8)
