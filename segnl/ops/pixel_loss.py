"""Losses of logits that are upsampled to the label's size, band of rows by band.

A band's upsampled logits become its loss and its gradient at once and are forgotten: nothing of size `b k H W` exists,
in forward or in backward. Upsampling is two products with thin matrices, so that its gradient is deterministic too.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from segnl.core import IGNORE
from segnl.ops import pixel_sums
from segnl.ops.arguments import FLOATS, accumulation_dtype
from segnl.ops.pixel_sums import pixel_cross_entropy_sum

DivideBy = Literal["valid", "all"]


def pixel_cross_entropy(
    logits: Tensor,
    label: Tensor,
    *,
    align_corners: bool,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    divide_by: DivideBy | float | Tensor = "valid",
    band_rows: int | None = None,
) -> Tensor:
    """Cross-entropy of logits `b k h w`, bilinearly upsampled to label `b H W` (0..k-1, or 255: ignored).

    class_weight: `k`, or None for ones. label_smoothing in [0, 1), as torch's cross_entropy has it.
    divide_by: "valid" is the mean over pixels that are not ignored, weighted by their labels' class weights, as torch
    takes it; "all" divides by b * H * W, as mmsegmentation does; a number (such as the valid pixels of all ranks) is
    divided by as it stands.
    band_rows: at most so many output rows are held at a time, or None: what fits a cache. Results depend on it by
    rounding only.
    Returns a scalar in float32 (float64 for float64 logits). Where every pixel is ignored it is exactly 0 and so is its
    gradient. Half precision logits are upsampled and summed in float32. Differentiable once, in the logits.

    Raises ValueError for shapes that do not agree, a label outside 0..k-1 and 255 (on the CPU), or bad settings.
    """
    _check(logits, label, band_rows)
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing: {label_smoothing}; expected 0 <= label_smoothing < 1")
    dtype = accumulation_dtype(logits.dtype)
    if class_weight is not None:
        _check_class_weight(class_weight, logits.shape[1])
    wants_gradient = torch.is_grad_enabled() and logits.requires_grad
    total: Tensor = pixel_cross_entropy_sum(
        logits, label, class_weight, align_corners, label_smoothing, band_rows, wants_gradient
    )[0]
    if divide_by == "valid":
        count = pixel_weight_sum(label, class_weight=class_weight).to(total.device)
    elif divide_by == "all":
        count = torch.full_like(total, label.numel())
    elif isinstance(divide_by, str):
        raise ValueError(f"divide_by: '{divide_by}'; expected 'valid', 'all' or a number")
    else:
        count = torch.as_tensor(divide_by, dtype=torch.float64, device=total.device)
    # 0 pixels have 0 loss: dividing by anything keeps it, dividing by 0 would not.
    return (total / torch.where(count == 0, 1, count)).to(dtype)


def per_pixel_loss(logits: Tensor, label: Tensor, *, align_corners: bool, band_rows: int | None = None) -> Tensor:
    """Each pixel's unweighted cross-entropy `b H W`, without gradient; -1 where the pixel is ignored.

    float32 (float64 for float64 logits). exp(-per_pixel_loss) is the true class's probability.
    """
    _check(logits, label, band_rows)
    per_pixel_loss: Tensor = pixel_sums.per_pixel_loss(logits.detach(), label, align_corners, band_rows)
    return per_pixel_loss


def ohem_label(label: Tensor, per_pixel_loss: Tensor, *, threshold: float, min_kept: int) -> Tensor:
    """The label with every easy pixel ignored: online hard example mining as CCNet trains with it.

    per_pixel_loss: of `per_pixel_loss`. A valid pixel is kept when its true class's probability is at most `threshold`,
    or at most that of the min_kept-th hardest valid pixel, whichever keeps more; all are kept where there are no more.

    Raises ValueError for a threshold that is no probability, or a negative min_kept.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: {threshold}; expected a probability, 0 to 1")
    if min_kept < 0:
        raise ValueError(f"min_kept: {min_kept}; expected at least 0 pixels")
    ceiling = -math.log(threshold) if threshold else math.inf
    if not min_kept:
        limit = per_pixel_loss.new_full((), ceiling)
    elif min_kept < per_pixel_loss.numel():
        # Fewer valid pixels than min_kept: an ignored one (-1) is among the hardest, and every valid one is kept.
        limit = pixel_sums.nth_largest(per_pixel_loss, torch.full((), min_kept, device=per_pixel_loss.device), ceiling)
    else:
        limit = per_pixel_loss.new_zeros(())
    return label.masked_fill((per_pixel_loss < limit) | (per_pixel_loss < 0), IGNORE)


def hardest_label(label: Tensor, per_pixel_loss: Tensor, *, fraction: float) -> Tensor:
    """The label with all but the hardest `fraction` of its valid pixels ignored (rounded up; equals are all kept).

    Raises ValueError when fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: {fraction}; expected 0 < fraction <= 1")
    num_valid = (per_pixel_loss >= 0).sum()
    limit = pixel_sums.nth_largest(per_pixel_loss, (num_valid * fraction).ceil().long().clamp(min=1), math.inf)
    return label.masked_fill((per_pixel_loss < limit) | (per_pixel_loss < 0), IGNORE)


def pixel_weight_sum(label: Tensor, *, class_weight: Tensor | None = None) -> Tensor:
    """What "valid" divides by, float64: the number of pixels that are not ignored, or the sum of their class weights.

    Summed over ranks it is what each rank gives as `divide_by` to take part in one global mean.
    """
    valid = label != IGNORE
    if class_weight is None:
        return valid.sum(dtype=torch.float64)
    of_label = class_weight.to(label.device).index_select(0, label.long().masked_fill(~valid, 0).flatten())
    return (of_label * valid.flatten()).sum(dtype=torch.float64)


def _check(logits: Tensor, label: Tensor, band_rows: int | None) -> None:
    if logits.dim() != 4 or logits.numel() == 0 or logits.dtype not in FLOATS:
        raise ValueError(f"logits: {logits.dtype} {tuple(logits.shape)}; expected floating `b k h w`, each at least 1")
    if label.dim() != 3 or label.numel() == 0 or label.shape[0] != logits.shape[0]:
        raise ValueError(f"label: shape {tuple(label.shape)}; expected `b H W` with b={logits.shape[0]}")
    if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
        raise ValueError(f"label: {label.dtype}; expected an integer dtype, such as int64")
    if label.device != logits.device:
        raise ValueError(f"label: on {label.device}; expected {logits.device}, where logits is")
    if band_rows is not None and band_rows < 1:
        raise ValueError(f"band_rows: {band_rows}; expected at least 1")


def _check_class_weight(class_weight: Tensor, num_classes: int) -> None:
    if class_weight.shape != (num_classes,) or not class_weight.is_floating_point():
        found = f"{class_weight.dtype} {tuple(class_weight.shape)}"
        raise ValueError(f"class_weight: {found}; expected floating `k` with k={num_classes}")
