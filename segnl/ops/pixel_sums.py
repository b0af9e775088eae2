"""The operators behind `pixel_loss`: sums over upsampled logits that are never whole, and their gradient.

Before they are upsampled, logits have their position's largest subtracted and are put in units of log 2. There it costs
next to nothing; interpolation is linear, so that no upsampled score exceeds 0; and exp2 is cheaper than exp.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segnl.core import IGNORE
from segnl.ops.arguments import accumulation_dtype
from segnl.ops.library import differentiate, flops_of, operator, shapes_of
from segnl.ops.pixel_tiles import PixelTiles, Tile, upsampling_flops

_CHECKED_AT_ONCE = 1 << 16  # pixels

STEEP = -128.0
"""Bits. Where no score lies further below its position's largest, the largest at any pixel between is at least 2^-96:
the class that leads at its nearest position has 0 there, with at least a quarter of the share. float32 then still
holds whatever would count beside it."""


@operator(
    "pixel_cross_entropy(Tensor logits, Tensor label, Tensor? class_weight, bool align_corners, "
    "float label_smoothing, int? band_rows, bool wants_gradient) -> (Tensor, Tensor)"
)
def pixel_cross_entropy_sum(
    logits: Tensor,
    label: Tensor,
    class_weight: Tensor | None,
    align_corners: bool,
    label_smoothing: float,
    band_rows: int | None,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """The summed loss, float64 scalar, and its gradient `b k h w` as accumulated (without elements unless wanted)."""
    num_classes = logits.shape[1]
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    codes = _codes(label, num_classes)
    with torch.autocast(logits.device.type, enabled=False):
        scores, is_steep = _bits(logits)
        weight = None if class_weight is None else class_weight.to(scores)
        # k: each class's part in every pixel's target
        smooth = (scores.new_ones(num_classes) if weight is None else weight) * (label_smoothing / num_classes)
        tiles = PixelTiles(
            scores, label.shape[1:], band_rows, align_corners=align_corners, wants_gradient=wants_gradient
        )
        for tile in tiles:
            up, (place, of_label, valid) = tile.up, _labels(codes, tile)
            if is_steep:
                up -= up.amax(dim=2, keepdim=True)
            hard = valid  # the label's own part of the target, rows b columns
            if weight is not None:
                hard = valid * weight.index_select(0, of_label.flatten()).view_as(valid)
            share = hard  # of the log-sum
            if label_smoothing:
                hard = hard * (1 - label_smoothing)
                share = hard + valid * smooth.sum()
                total -= (torch.matmul(smooth, up) * valid).sum()
            at_label = up.view(-1).index_select(0, place).view_as(hard)
            exp_sum = up.exp2_().sum(dim=2)
            total += (exp_sum.log2() * share).sub_(at_label.mul_(hard)).sum()
            if wants_gradient:
                # share * softmax - the target; in up's memory, softmax without a tensor of its own.
                up *= (share / exp_sum)[:, :, None]
                up.view(-1).index_add_(0, place, hard.flatten(), alpha=-1)
                if label_smoothing:
                    up.addcmul_(smooth[:, None], valid[:, :, None], value=-1)
        return total * math.log(2), tiles.gradient() if wants_gradient else scores.new_empty(0)


@shapes_of(pixel_cross_entropy_sum)
def _(
    logits: Tensor,
    label: Tensor,
    class_weight: Tensor | None,
    align_corners: bool,
    label_smoothing: float,
    band_rows: int | None,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor]:
    grad_shape = logits.shape if wants_gradient else (0,)
    total = logits.new_empty((), dtype=torch.float64)
    return total, logits.new_empty(grad_shape, dtype=accumulation_dtype(logits.dtype))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])
    ctx.dtype = inputs[0].dtype


def _backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    (grad,) = ctx.saved_tensors
    # Kept in float32 until here: summed over a batch and divided by its pixels, float16 would lose it.
    return (grad * grad_total.to(grad.dtype)).to(ctx.dtype), None, None, None, None, None, None


differentiate(pixel_cross_entropy_sum, _backward, _setup_context)


@operator("per_pixel_loss(Tensor logits, Tensor label, bool align_corners, int? band_rows) -> Tensor")
def per_pixel_loss(logits: Tensor, label: Tensor, align_corners: bool, band_rows: int | None) -> Tensor:
    """Each pixel's cross-entropy `b H W`, at least 0, as accumulated; -1 where it is ignored."""
    per_pixel_loss = torch.empty(label.shape, dtype=accumulation_dtype(logits.dtype), device=logits.device)
    codes = _codes(label, logits.shape[1])
    with torch.autocast(logits.device.type, enabled=False):
        scores, is_steep = _bits(logits)
        for tile in PixelTiles(scores, label.shape[1:], band_rows, align_corners=align_corners):
            up, (place, _, valid) = tile.up, _labels(codes, tile)
            if is_steep:
                up -= up.amax(dim=2, keepdim=True)
            at_label = up.view(-1).index_select(0, place).view_as(valid)
            loss = up.exp2_().sum(dim=2).log2_().sub_(at_label).mul_(math.log(2)).clamp_(min=0)
            loss.mul_(valid).add_(valid - 1)  # itself where valid is 1, and -1 where it is 0
            per_pixel_loss[tile.images, tile.rows, tile.columns] = loss.transpose(0, 1)
    return per_pixel_loss


@shapes_of(per_pixel_loss)
def _(logits: Tensor, label: Tensor, align_corners: bool, band_rows: int | None) -> Tensor:
    return logits.new_empty(label.shape, dtype=accumulation_dtype(logits.dtype))


@operator("nth_largest(Tensor values, Tensor n, float ceiling) -> Tensor")
def nth_largest(values: Tensor, n: Tensor, ceiling: float) -> Tensor:
    """The n-th largest of all values, but at most `ceiling`: a scalar; n is an int64 scalar from 1."""
    flat = values.flatten()
    if flat.device.type != "cpu":
        return flat.sort(descending=True).values.index_select(0, n.reshape(1) - 1)[0].clamp(max=ceiling)
    if int(torch.count_nonzero(flat >= ceiling)) >= int(n):
        return flat.new_full((), ceiling)
    # torch's selections keep an index of 8 bytes and more beside every value.
    place = flat.numel() - int(n)
    return torch.from_numpy(np.partition(flat.numpy(), place)[place : place + 1].copy())[0]


@shapes_of(nth_largest)
def _(values: Tensor, n: Tensor, ceiling: float) -> Tensor:
    return values.new_empty(())


def _bits(logits: Tensor) -> tuple[Tensor, bool]:
    """The logits in bits below their position's largest, and whether pixels must be given a largest of their own."""
    scores = logits.to(accumulation_dtype(logits.dtype))
    scores = (scores - scores.amax(dim=1, keepdim=True)).mul_(1 / math.log(2))
    # A GPU would have to be waited for.
    return scores, scores.device.type != "cpu" or not bool(scores.amin() >= STEEP)


def _codes(label: Tensor, num_classes: int) -> Tensor:
    """The label `b H W`; on the CPU in 1 byte a pixel where that holds num_classes, and checked.

    Raises ValueError for a label outside 0..k-1 and 255.
    """
    if label.device.type != "cpu":  # would have to be waited for, and asserts by itself
        return label
    dtype = torch.uint8 if num_classes <= IGNORE else torch.int32
    lowest, highest = (int(x) for x in label.aminmax())
    if highest == IGNORE:
        # 0 in the place of an ignored pixel; part by part, since a whole copy would be the largest tensor here.
        parts = label.flatten().split(_CHECKED_AT_ONCE)
        highest = max(int(part.masked_fill(part == IGNORE, 0).amax()) for part in parts)
    if lowest < 0 or highest >= num_classes:
        bad = lowest if lowest < 0 else highest
        raise ValueError(f"label: holds {bad}; expected 0..{num_classes - 1}, or {IGNORE} for an ignored pixel")
    return label.to(dtype)


def _labels(codes: Tensor, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
    """Of a tile: where each pixel's label lies in its numbers, the labels `rows b columns`, and 1 where valid, else 0.

    An ignored pixel has the last class for a label.
    """
    num_classes, columns = tile.up.shape[2:]
    here = codes[tile.images, tile.rows, tile.columns].transpose(0, 1)
    of_label = here.clamp(max=num_classes - 1).int()
    valid = here.to(tile.up.dtype).ne_(IGNORE)  # as a number: booleans are slow to make and to convert
    return torch.add(tile.place, of_label, alpha=columns).flatten(), of_label, valid


@flops_of(pixel_cross_entropy_sum)
def pixel_cross_entropy_flops(
    logits_shape: Any,
    label_shape: Any,
    _: Any,
    align_corners: bool,
    __: float,
    band_rows: int | None,
    wants_gradient: bool,
    **___: Any,
) -> int:
    """What interpolates, and the products that transpose it."""
    up, down = upsampling_flops(logits_shape, label_shape[1:], band_rows, align_corners=align_corners)
    return up + down if wants_gradient else up


@flops_of(per_pixel_loss)
def per_pixel_loss_flops(
    logits_shape: Any, label_shape: Any, align_corners: bool, band_rows: int | None, *_: Any, **__: Any
) -> int:
    """What interpolates, tile by tile as on the CPU."""
    return upsampling_flops(logits_shape, label_shape[1:], band_rows, align_corners=align_corners)[0]
