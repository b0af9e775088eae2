"""The operators behind `pixel_loss`: upsampled logits one tile at a time, their cross-entropy and its gradient."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segnl.ops.arguments import accumulator
from segnl.ops.library import differentiate, flops_of, operator, shapes_of
from segnl.ops.resize import taps_matrix

IGNORE = 255
"""The label of a pixel that takes no part, as everywhere in the package."""

TILE_NUMBERS = 1 << 18
"""Upsampled logits in a tile on the CPU: 1 MB in float32, which stays in a core's cache from one pass to the next."""

TILE_COLUMNS = 512
"""A wider tile is split: its columns are interpolated by a dense product, whose cost grows with the square."""


class _Strip(NamedTuple):
    """Output rows (or columns), the input rows that they are interpolated from, and the shares `out in`."""

    out: slice
    source: slice
    taps: Tensor


class _Tile(NamedTuple):
    images: slice
    rows: _Strip
    columns: _Strip

    @property
    def out(self) -> tuple[slice, slice, slice]:
        """Where the tile lies in `b H W`."""
        return self.images, self.rows.out, self.columns.out

    def upsample(self, logits: Tensor) -> Tensor:
        """`b k h w` -> `b k pixels` of this tile."""
        patch = logits[self.images, :, self.rows.source, self.columns.source]
        wide = torch.matmul(patch, self.columns.taps.mT)  # b k few columns
        return torch.matmul(self.rows.taps, wide).flatten(2)  # b k rows*columns

    def add_gradient(self, grad: Tensor, tile_grad: Tensor) -> None:
        """Adds what `b k pixels` gives to grad `b k h w`: upsampling, transposed."""
        wide = torch.matmul(self.rows.taps.mT, tile_grad.unflatten(2, (self.rows.taps.shape[0], -1)))
        grad[self.images, :, self.rows.source, self.columns.source] += torch.matmul(wide, self.columns.taps)


@operator(
    "pixel_cross_entropy(Tensor logits, Tensor label, Tensor? class_weight, bool align_corners, "
    "float label_smoothing, int band_rows, bool wants_gradient) -> (Tensor, Tensor)"
)
def pixel_cross_entropy_sum(
    logits: Tensor,
    label: Tensor,
    class_weight: Tensor | None,
    align_corners: bool,
    label_smoothing: float,
    band_rows: int,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """The summed loss, float64 scalar, and its gradient `b k h w` as accumulated (without elements unless wanted)."""
    num_classes = logits.shape[1]
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        scores = logits.to(accumulator(logits.dtype))
        grad = torch.zeros_like(scores) if wants_gradient else scores.new_empty(0)
        weight = scores.new_ones(num_classes) if class_weight is None else class_weight.to(scores)
        smooth = weight * (label_smoothing / num_classes)  # k: each class's part in every pixel's target
        for tile in _tiles(scores, label, band_rows, align_corners=align_corners):
            train_id, valid = _train_ids(label[tile.out], num_classes)  # b 1 pixels
            hard = (weight * (1 - label_smoothing))[train_id] * valid  # the label's own part
            up = tile.upsample(scores)
            up -= up.amax(dim=1, keepdim=True)
            at_label = up.gather(1, train_id)
            smooth_score = torch.matmul(smooth, up)[:, None] if label_smoothing else 0.0
            exp_sum = up.exp_().sum(dim=1, keepdim=True)
            log_sum, smooth_sum = exp_sum.log(), smooth.sum() * valid
            total += ((hard + smooth_sum) * log_sum - hard * at_label - smooth_score * valid).sum(dtype=torch.float64)
            if wants_gradient:
                # (hard + smooth) * softmax - the target; in up's memory, softmax without a tensor of its own.
                pull = (hard + smooth_sum) / exp_sum
                up *= pull
                up.scatter_(1, train_id, at_label.exp_() * pull - hard)
                if label_smoothing:
                    up -= smooth[:, None] * valid
                tile.add_gradient(grad, up)
    return total, grad


@shapes_of(pixel_cross_entropy_sum)
def _(
    logits: Tensor,
    label: Tensor,
    class_weight: Tensor | None,
    align_corners: bool,
    label_smoothing: float,
    band_rows: int,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor]:
    grad_shape = logits.shape if wants_gradient else (0,)
    total = logits.new_empty((), dtype=torch.float64)
    return total, logits.new_empty(grad_shape, dtype=accumulator(logits.dtype))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])
    ctx.dtype = inputs[0].dtype


def _backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    (grad,) = ctx.saved_tensors
    # Kept in float32 until here: summed over a batch and divided by its pixels, float16 would lose it.
    return (grad * grad_total.to(grad.dtype)).to(ctx.dtype), None, None, None, None, None, None


differentiate(pixel_cross_entropy_sum, _backward, _setup_context)


@operator("pixel_hardness(Tensor logits, Tensor label, bool align_corners, int band_rows) -> Tensor")
def pixel_hardness(logits: Tensor, label: Tensor, align_corners: bool, band_rows: int) -> Tensor:
    """Each pixel's cross-entropy `b H W`, at least 0, as accumulated; -1 where it is ignored."""
    hardness = torch.empty(label.shape, dtype=accumulator(logits.dtype), device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        scores = logits.to(hardness.dtype)
        for tile in _tiles(scores, label, band_rows, align_corners=align_corners):
            train_id, valid = _train_ids(label[tile.out], logits.shape[1])
            up = tile.upsample(scores)
            up -= up.amax(dim=1, keepdim=True)
            at_label = up.gather(1, train_id)
            loss = (up.exp_().sum(dim=1, keepdim=True).log() - at_label).clamp(min=0).masked_fill(~valid, -1)
            hardness[tile.out] = loss.reshape(hardness[tile.out].shape)
    return hardness


@shapes_of(pixel_hardness)
def _(logits: Tensor, label: Tensor, align_corners: bool, band_rows: int) -> Tensor:
    return logits.new_empty(label.shape, dtype=accumulator(logits.dtype))


def _train_ids(label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Label `b rows columns` as int64 `b 1 pixels`, 0 where ignored, and where it is not."""
    label = label.flatten(1).long()[:, None]
    valid = label != IGNORE
    train_id = label.masked_fill(~valid, 0)
    if label.device.type == "cpu":  # a GPU would have to be waited for, and asserts by itself
        lowest, highest = (int(x) for x in train_id.aminmax())
        if lowest < 0 or highest >= num_classes:
            bad = lowest if lowest < 0 else highest
            raise ValueError(f"label: holds {bad}; expected 0..{num_classes - 1}, or {IGNORE} for an ignored pixel")
    return train_id, valid


def _tiles(scores: Tensor, label: Tensor, band_rows: int, *, align_corners: bool) -> Iterator[_Tile]:
    num_images, num_classes, h, w = scores.shape
    # A GPU wants few large steps, a CPU's cache small ones.
    images_at_once = 1 if scores.device.type == "cpu" else num_images
    most_columns = _tile_columns(num_classes, band_rows) if scores.device.type == "cpu" else label.shape[2]
    rows = [_onto(scores, strip) for strip in _strips(h, label.shape[1], band_rows, align_corners=align_corners)]
    columns = [_onto(scores, strip) for strip in _strips(w, label.shape[2], most_columns, align_corners=align_corners)]
    for start in range(0, num_images, images_at_once):
        for row_strip in rows:
            for column_strip in columns:
                yield _Tile(slice(start, start + images_at_once), row_strip, column_strip)


def _tile_columns(num_classes: int, band_rows: int) -> int:
    return min(TILE_COLUMNS, max(16, TILE_NUMBERS // (num_classes * band_rows)))


def _strips(num_in: int, num_out: int, most: int, *, align_corners: bool) -> list[_Strip]:
    """num_out positions in as few strips of at most `most` as there must be, of about equal width."""
    matrix = taps_matrix(num_in, num_out, align_corners=align_corners)
    num_strips = -(-num_out // most)
    width = -(-num_out // num_strips)
    strips = []
    for start in range(0, num_out, width):
        touched = matrix[start : start + width].any(dim=0).nonzero()
        source = slice(int(touched[0]), int(touched[-1]) + 1)
        strips.append(_Strip(slice(start, start + width), source, matrix[start : start + width, source]))
    return strips


def _onto(scores: Tensor, strip: _Strip) -> _Strip:
    return strip._replace(taps=strip.taps.to(scores).contiguous())


@flops_of(pixel_cross_entropy_sum)
def pixel_cross_entropy_flops(
    logits_shape: Any, label_shape: Any, _: Any, align_corners: bool, __: float, band_rows: int, wants: bool, **___: Any
) -> int:
    """The products that upsample, and as many again for the gradient."""
    return (2 if wants else 1) * pixel_hardness_flops(logits_shape, label_shape, align_corners, band_rows)


@flops_of(pixel_hardness)
def pixel_hardness_flops(
    logits_shape: Any, label_shape: Any, align_corners: bool, band_rows: int, *_: Any, **__: Any
) -> int:
    """The products that upsample, tile by tile as on the CPU."""
    b, k, h, w = logits_shape
    rows = _strips(h, label_shape[1], band_rows, align_corners=align_corners)
    columns = _strips(w, label_shape[2], _tile_columns(k, band_rows), align_corners=align_corners)
    across = sum(strip.taps.shape[1] for strip in rows) * sum(strip.taps.numel() for strip in columns)
    down = sum(strip.taps.numel() for strip in rows) * label_shape[2]
    return int(2 * b * k * (across + down))
