"""The pixel losses of ops/pixel_loss.py on the CPU, tile by tile; benchmarks/loss.py measures what the tiles gain.

Before the logits are upsampled, each position's largest is subtracted and the rest is divided by log 2. There it costs
next to nothing. Interpolation is linear, so no upsampled score exceeds 0, and exp2 is cheaper than exp.
"""

import math

import numpy as np
import torch
from torch import Tensor

from segnl.core import IGNORE
from segnl.ops.arguments import accumulation_dtype
from segnl.ops.kernels.pixel_tiles import PixelTiles, Tile

CHECKED_PIXELS = 1 << 16
"""Pixels of a label that are checked at once."""

STEEP_BITS = -128.0
"""Where no score lies further below its position's largest, the largest score of every pixel is at least 2^-96: the
class that leads at the nearest position has the score 0 there and at least a quarter of the weight. Then float32 holds
all exponentials that count. Elsewhere each pixel's own largest score is subtracted as well."""


def tiled_cross_entropy_sum(
    logits: Tensor,
    label: Tensor,
    class_weight: Tensor | None,
    align_corners: bool,
    label_smoothing: float,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Computes `reference_cross_entropy_sum` (ops/pixel_loss.py) in tiles.

    Raises ValueError for a label outside 0..k-1 and 255.
    """
    num_classes = logits.shape[1]
    total = torch.zeros((), dtype=torch.float64)
    label = checked_label(label, num_classes)
    with torch.autocast("cpu", enabled=False):
        scores, is_steep = _bits(logits)
        weight = None if class_weight is None else class_weight.to(scores)
        # k: each class's share of every pixel's target
        smooth = (scores.new_ones(num_classes) if weight is None else weight) * (label_smoothing / num_classes)
        tiles = PixelTiles(scores, label.shape[1:], align_corners=align_corners, wants_gradient=wants_gradient)
        for tile in tiles:
            up, (labels, valid) = tile.logits, _labels(label, tile)
            if is_steep:
                up -= up.amax(dim=1, keepdim=True)
            hard = valid  # rows columns: the label's own share of the target
            if weight is not None:
                hard = valid * weight[labels[:, 0]]
            target_sum = hard  # what the log-sum-exp is multiplied by
            if label_smoothing:
                hard = hard * (1 - label_smoothing)
                target_sum = hard + valid * smooth.sum()
                total -= (torch.matmul(smooth, up) * valid).sum()
            at_label = up.gather(1, labels)[:, 0]
            exp_sum = up.exp2_().sum(dim=1)
            total += (exp_sum.log2() * target_sum).sub_(at_label.mul_(hard)).sum()
            if wants_gradient:
                # target_sum * softmax - target, in up's memory, so that softmax needs no tensor of its own.
                up *= (target_sum / exp_sum)[:, None]
                up.scatter_add_(1, labels, -hard[:, None])
                if label_smoothing:
                    up.addcmul_(smooth[:, None], valid[:, None], value=-1)
        return total * math.log(2), tiles.gradient() if wants_gradient else scores.new_empty(0)


def tiled_pixel_losses(logits: Tensor, label: Tensor, align_corners: bool) -> Tensor:
    """Computes `reference_pixel_losses` (ops/pixel_loss.py) in tiles.

    Raises ValueError for a label outside 0..k-1 and 255.
    """
    losses = torch.empty(label.shape, dtype=accumulation_dtype(logits.dtype))
    label = checked_label(label, logits.shape[1])
    with torch.autocast("cpu", enabled=False):
        scores, is_steep = _bits(logits)
        for tile in PixelTiles(scores, label.shape[1:], align_corners=align_corners):
            up, (labels, valid) = tile.logits, _labels(label, tile)
            if is_steep:
                up -= up.amax(dim=1, keepdim=True)
            at_label = up.gather(1, labels)[:, 0]
            loss = up.exp2_().sum(dim=1).log2_().sub_(at_label).mul_(math.log(2)).clamp_(min=0)
            loss.mul_(valid).add_(valid - 1)  # unchanged where valid is 1, and -1 where it is 0
            losses[tile.image, tile.rows, tile.columns] = loss
    return losses


def nth_largest_by_partition(values: Tensor, n: Tensor, ceiling: float) -> Tensor:
    """Computes `nth_largest_by_sort` (ops/pixel_loss.py) without the 8-byte index that torch keeps beside a value."""
    flat = values.flatten()
    if int(torch.count_nonzero(flat >= ceiling)) >= int(n):
        return flat.new_full((), ceiling)
    place = flat.numel() - int(n)
    return torch.from_numpy(np.partition(flat.numpy(), place)[place : place + 1].copy())[0]


def _bits(logits: Tensor) -> tuple[Tensor, bool]:
    """Returns the logits below their position's largest, in bits, and whether pixels need a largest of their own."""
    scores = logits.to(accumulation_dtype(logits.dtype))
    scores = (scores - scores.amax(dim=1, keepdim=True)).mul_(1 / math.log(2))
    return scores, not bool(scores.amin() >= STEEP_BITS)


def checked_label(label: Tensor, num_classes: int) -> Tensor:
    """Returns the label `b H W` in 1 byte a pixel, or 4 where that does not hold num_classes.

    Raises ValueError for a label outside 0..k-1 and 255.
    """
    dtype = torch.uint8 if num_classes <= IGNORE else torch.int32
    lowest, highest = (int(x) for x in label.aminmax())
    if highest == IGNORE:
        # In chunks with 0 for the ignored pixels, since a copy of the label would be the largest tensor here.
        chunks = label.flatten().split(CHECKED_PIXELS)
        highest = max(int(chunk.masked_fill(chunk == IGNORE, 0).amax()) for chunk in chunks)
    if lowest < 0 or highest >= num_classes:
        bad = lowest if lowest < 0 else highest
        raise ValueError(f"label: holds {bad}; expected 0..{num_classes - 1}, or {IGNORE} for an ignored pixel")
    return label.to(dtype)


def _labels(label: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
    """Returns a tile's classes, int64 `rows 1 columns` (the last one where ignored), and 1 where valid, else 0."""
    labels = label[tile.image, tile.rows, tile.columns]
    valid = labels.to(tile.logits.dtype).ne_(IGNORE)  # as a number: booleans are slow to make and to convert
    return labels.long().clamp_(max=tile.logits.shape[1] - 1)[:, None], valid
