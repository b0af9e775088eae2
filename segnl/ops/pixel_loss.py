"""Losses of logits that are upsampled to the label's size band by band.

A band of output rows is upsampled, turned into its loss and gradient, and dropped: no tensor of size `b k H W` exists,
in forward or in backward. Upsampling is a product with a thin matrix along each axis, so its gradient is deterministic.

The functions named `reference_` are the operators, and what GPUs run; the CPU runs the kernels of the same result in
ops/kernels/pixel_loss.py.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from segnl.core import IGNORE
from segnl.ops.arguments import FLOATS, accumulation_dtype
from segnl.ops.kernels.pixel_loss import nth_largest_by_partition, tiled_cross_entropy_sum, tiled_pixel_losses
from segnl.ops.library import differentiate, operator
from segnl.ops.resize import taps_matrix

NormalizeBy = Literal["valid", "all"]

BAND_NUMBERS = 1 << 24
"""Upsampled logits in a band of the plain forms: few large steps, and 64 MB in float32 for each tensor of them."""


def pixel_cross_entropy(
    logits: Tensor,
    label: Tensor,
    *,
    align_corners: bool,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    normalize_by: NormalizeBy | float | Tensor = "valid",
) -> Tensor:
    """Cross-entropy of logits `b k h w`, bilinearly upsampled to label `b H W` (0..k-1, or 255: ignored).

    class_weight: `k`, or None for ones. label_smoothing in [0, 1), as in torch's cross_entropy.
    normalize_by: "valid" is the mean over pixels that are not ignored, weighted by their labels' class weights, as in
    torch; "all" divides by b * H * W, as in mmsegmentation; a number, such as the valid pixels of all ranks, is divided
    by as it is.
    Returns a scalar in float32 (float64 for float64 logits). Where every pixel is ignored, it is exactly 0 and so is
    its gradient. Half precision logits are upsampled and summed in float32. Differentiable once, in the logits.

    Raises ValueError for shapes that do not agree, a label outside 0..k-1 and 255 (on the CPU), or bad settings.
    """
    check_logits_and_label(logits, label)
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing: {label_smoothing}; expected 0 <= label_smoothing < 1")
    dtype = accumulation_dtype(logits.dtype)
    if class_weight is not None and (class_weight.shape != logits.shape[1:2] or not class_weight.is_floating_point()):
        actual = f"{class_weight.dtype} {tuple(class_weight.shape)}"
        raise ValueError(f"class_weight: {actual}; expected floating `k` with k={logits.shape[1]}")
    wants_gradient = torch.is_grad_enabled() and logits.requires_grad
    total: Tensor = cross_entropy_sum(logits, label, class_weight, align_corners, label_smoothing, wants_gradient)[0]
    if normalize_by == "valid":
        count = pixel_weight_sum(label, class_weight=class_weight).to(total.device)
    elif normalize_by == "all":
        count = torch.full_like(total, label.numel())
    elif isinstance(normalize_by, str):
        raise ValueError(f"normalize_by: '{normalize_by}'; expected 'valid', 'all' or a number")
    else:
        count = torch.as_tensor(normalize_by, dtype=torch.float64, device=total.device)
    # The loss of 0 pixels is 0; dividing by 0 would make it NaN.
    return (total / torch.where(count == 0, 1, count)).to(dtype)


def reference_cross_entropy_sum(
    logits: Tensor,
    label: Tensor,
    class_weight: Tensor | None,
    align_corners: bool,
    label_smoothing: float,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Computes the summed loss, float64 scalar, and its gradient `b k h w` in float32 (empty unless wants_gradient)."""
    num_classes = logits.shape[1]
    scores = logits.to(accumulation_dtype(logits.dtype))
    by_row, by_column = _interpolation(scores, label, align_corners=align_corners)
    weight = scores.new_ones(num_classes) if class_weight is None else class_weight.to(scores)
    smooth = weight[:, None, None] * (label_smoothing / num_classes)  # k 1 1: each class's share of every target
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        wide = scores @ by_column.mT  # b k h W
        wide_grad = torch.zeros_like(wide)
        for rows in _bands(logits.shape, label.shape):
            log_probability = (by_row[rows] @ wide).log_softmax(dim=1)  # b k rows W
            labels = label[:, None, rows].long()  # b 1 rows W
            valid, labels = (labels != IGNORE).to(scores), labels.clamp(max=num_classes - 1)
            hard = valid * weight[labels] * (1 - label_smoothing)  # the label's own share of the target
            total -= (hard * log_probability.gather(1, labels)).sum(dtype=torch.float64)
            if label_smoothing:
                total -= (smooth * log_probability * valid).sum(dtype=torch.float64)
            if wants_gradient:  # (sum of the target) * softmax - target
                grad = log_probability.exp_().mul_(hard + valid * smooth.sum())
                grad.scatter_(1, labels, grad.gather(1, labels) - hard)
                if label_smoothing:
                    grad -= smooth * valid
                wide_grad += by_row[rows].mT @ grad
        return total, wide_grad @ by_column if wants_gradient else scores.new_empty(0)


def reference_pixel_losses(logits: Tensor, label: Tensor, align_corners: bool) -> Tensor:
    """Computes each pixel's cross-entropy `b H W` in float32 (float64 for float64 logits); -1 where it is ignored."""
    scores = logits.to(accumulation_dtype(logits.dtype))
    by_row, by_column = _interpolation(scores, label, align_corners=align_corners)
    losses = scores.new_empty(label.shape)
    with torch.autocast(logits.device.type, enabled=False):
        wide = scores @ by_column.mT  # b k h W
        for rows in _bands(logits.shape, label.shape):
            log_probability = (by_row[rows] @ wide).log_softmax(dim=1)  # b k rows W
            labels = label[:, None, rows].long()  # b 1 rows W
            loss = -log_probability.gather(1, labels.clamp(max=logits.shape[1] - 1))
            losses[:, rows] = loss.clamp(min=0).masked_fill(labels == IGNORE, -1)[:, 0]
    return losses


def nth_largest_by_sort(values: Tensor, n: Tensor, ceiling: float) -> Tensor:
    """Returns the n-th largest of all values, but at most `ceiling`: a scalar; n is an int64 scalar from 1."""
    in_order = values.flatten().sort(descending=True).values
    return in_order.index_select(0, n.reshape(1) - 1)[0].clamp(max=ceiling)


def _interpolation(scores: Tensor, label: Tensor, *, align_corners: bool) -> tuple[Tensor, Tensor]:
    """Returns the matrices that upsample scores `b k h w` along rows, `H h`, and along columns, `W w`."""
    (h, w), (out_h, out_w) = scores.shape[2:], label.shape[1:]
    by_row = taps_matrix(h, out_h, align_corners=align_corners).to(scores)
    return by_row, taps_matrix(w, out_w, align_corners=align_corners).to(scores)


def _bands(logits_shape: torch.Size, label_shape: torch.Size) -> list[slice]:
    """Cuts the label's rows into bands of at most BAND_NUMBERS upsampled logits, but at least a row."""
    num_rows = max(1, BAND_NUMBERS // (logits_shape[0] * logits_shape[1] * label_shape[2]))
    return [slice(first, first + num_rows) for first in range(0, label_shape[1], num_rows)]


def _interpolation_flops(logits: Sequence[int], label: Sequence[int]) -> int:
    """Counts one multiply-add for each number of the wide rows `b k h W` and of the result `b k H W`."""
    b, k, h, _ = logits
    return 2 * b * k * (h + label[1]) * label[2]


cross_entropy_sum = operator(
    "pixel_cross_entropy(Tensor logits, Tensor label, Tensor? class_weight, bool align_corners, "
    "float label_smoothing, bool wants_gradient) -> (Tensor, Tensor)",
    shapes=lambda logits, *settings: (
        logits.new_empty((), dtype=torch.float64),
        logits.new_empty(logits.shape if settings[-1] else (0,), dtype=accumulation_dtype(logits.dtype)),
    ),
    # The gradient is interpolated back.
    flops=lambda logits, label, *settings: _interpolation_flops(logits, label) * (2 if settings[-1] else 1),
    cpu_kernel=tiled_cross_entropy_sum,
)(reference_cross_entropy_sum)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])
    ctx.dtype = inputs[0].dtype


def _backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    (grad,) = ctx.saved_tensors
    # In float32 until here: a gradient that is divided by a batch's pixels would underflow in float16.
    return (grad * grad_total.to(grad.dtype)).to(ctx.dtype), None, None, None, None, None


differentiate(cross_entropy_sum, _backward, _setup_context)

pixel_losses = operator(
    "per_pixel_loss(Tensor logits, Tensor label, bool align_corners) -> Tensor",
    shapes=lambda logits, label, align_corners: logits.new_empty(label.shape, dtype=accumulation_dtype(logits.dtype)),
    flops=lambda logits, label, align_corners: _interpolation_flops(logits, label),
    cpu_kernel=tiled_pixel_losses,
)(reference_pixel_losses)

nth_largest = operator(
    "nth_largest(Tensor values, Tensor n, float ceiling) -> Tensor",
    shapes=lambda values, n, ceiling: values.new_empty(()),
    cpu_kernel=nth_largest_by_partition,
)(nth_largest_by_sort)


def per_pixel_loss(logits: Tensor, label: Tensor, *, align_corners: bool) -> Tensor:
    """Each pixel's unweighted cross-entropy `b H W`, without gradient; -1 where the pixel is ignored.

    logits, label: as in `pixel_cross_entropy`. Returns float32 (float64 for float64 logits);
    exp(-per_pixel_loss) is the probability of the label's class.

    Raises ValueError as `pixel_cross_entropy` does.
    """
    check_logits_and_label(logits, label)
    losses: Tensor = pixel_losses(logits.detach(), label, align_corners)
    return losses


def ohem_label(label: Tensor, per_pixel_loss: Tensor, *, threshold: float, min_kept: int) -> Tensor:
    """The label with every easy pixel ignored: online hard example mining as in CCNet's code.

    per_pixel_loss: the result of `per_pixel_loss`. A valid pixel is kept when the probability of its class is at most
    `threshold`, or at most that of the min_kept-th hardest valid pixel, whichever keeps more; all are kept where there
    are no more than min_kept.

    Raises ValueError for a threshold outside 0..1, or a negative min_kept.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: {threshold}; expected a probability, 0 to 1")
    if min_kept < 0:
        raise ValueError(f"min_kept: {min_kept}; expected at least 0 pixels")
    ceiling = -math.log(threshold) if threshold else math.inf
    limit = per_pixel_loss.new_full((), ceiling)
    if min_kept:
        # With fewer valid pixels than min_kept, the limit is an ignored pixel's -1, and every valid pixel is kept.
        place = min(min_kept, per_pixel_loss.numel())
        limit = nth_largest(per_pixel_loss, torch.full((), place, device=per_pixel_loss.device), ceiling)
    return label.masked_fill((per_pixel_loss < limit) | (per_pixel_loss < 0), IGNORE)


def hardest_label(label: Tensor, per_pixel_loss: Tensor, *, fraction: float) -> Tensor:
    """The label with all but the hardest `fraction` of its valid pixels ignored (rounded up; all of equal ones stay).

    per_pixel_loss: the result of `per_pixel_loss`.

    Raises ValueError when fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: {fraction}; expected 0 < fraction <= 1")
    num_valid = (per_pixel_loss >= 0).sum()
    limit = nth_largest(per_pixel_loss, (num_valid * fraction).ceil().long().clamp(min=1), math.inf)
    return label.masked_fill((per_pixel_loss < limit) | (per_pixel_loss < 0), IGNORE)


def pixel_weight_sum(label: Tensor, *, class_weight: Tensor | None = None) -> Tensor:
    """The divisor of normalize_by="valid", float64: the number of valid pixels, or the sum of their class weights.

    Summed over ranks, it is the number that every rank passes as `normalize_by` for one mean over all of them.
    """
    valid = label != IGNORE
    if class_weight is None:
        return valid.sum(dtype=torch.float64)
    weights = class_weight.to(label.device).index_select(0, label.long().masked_fill(~valid, 0).flatten())
    return (weights * valid.flatten()).sum(dtype=torch.float64)


def check_logits_and_label(logits: Tensor, label: Tensor) -> None:
    if logits.dim() != 4 or logits.numel() == 0 or logits.dtype not in FLOATS:
        raise ValueError(f"logits: {logits.dtype} {tuple(logits.shape)}; expected floating `b k h w`, each at least 1")
    if label.dim() != 3 or label.numel() == 0 or label.shape[0] != logits.shape[0]:
        raise ValueError(f"label: shape {tuple(label.shape)}; expected `b H W` with b={logits.shape[0]}")
    if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
        raise ValueError(f"label: {label.dtype}; expected an integer dtype, such as int64")
    if label.device != logits.device:
        raise ValueError(f"label: on {label.device}; expected {logits.device}, where logits is")
