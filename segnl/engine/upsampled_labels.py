"""Which class wins at each pixel of upsampled logits, without ever holding them upsampled: `b k h w` -> u8 `b H W`."""

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
    rounding = 32 * torch.finfo(logits.dtype).eps * logits.abs().amax()  # inf or NaN among the scores: nothing leads
    leads = best.squeeze(1) - second > rounding
    winner = winner.squeeze(1)
    is_hard = ~(leads & _next(leads, 1) & _next(leads, 2) & _next(_next(leads, 1), 2))
    for other in (_next(winner, 1), _next(winner, 2), _next(_next(winner, 1), 2)):
        is_hard |= other != winner
    return winner, is_hard


def _next(grid: Tensor, axis: int) -> Tensor:
    """Each position's next neighbour along an axis; the last one is its own."""
    length = grid.shape[axis]
    return grid.index_select(axis, torch.arange(1, length + 1).clamp(max=length - 1))


def _fill_cells(logits: Tensor, winner: Tensor, is_hard: Tensor, out: Tensor, *, align_corners: bool) -> None:
    """Labels one image `k h w` into out u8 `H W`: copies where a cell has one class, interpolates the other pixels."""
    num_classes, h, w = logits.shape
    above, below, row_share = taps(h, out.shape[0], align_corners=align_corners)
    left, right, column_share = taps(w, out.shape[1], align_corners=align_corners)
    row_share, column_share = row_share.to(logits.dtype), column_share.to(logits.dtype)
    scores = logits.flatten(1).t().contiguous()  # hw k: what a pixel needs of a position lies together
    label_of, hard_of = winner.to(torch.uint8)[:, left], is_hard[:, left]  # h W
    chunk = max(1, BAND_FLOATS // num_classes)  # pixels
    rows = max(1, 2**18 // out.shape[1])
    for first in range(0, out.shape[0], rows):
        source = above[first : first + rows]
        out[first : first + rows] = label_of[source]
        row, column = hard_of[source].nonzero(as_tuple=True)
        for y, x in zip(torch.split(row + first, chunk), torch.split(column, chunk), strict=True):
            top, bottom, v = above[y] * w, below[y] * w, row_share[y]
            near, far, u = left[x], right[x], column_share[x]
            corners = torch.stack([top + near, top + far, bottom + near, bottom + far], dim=1)  # pixels 4
            shares = torch.stack([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u], dim=1)
            mixed = F.embedding_bag(corners, scores, per_sample_weights=shares, mode="sum")  # pixels k
            out[y, x] = mixed.max(dim=1)[1].to(torch.uint8)
