"""The scores of one evaluation as plain numbers for metrics.json and as a table for the terminal. Imports no torch.

Fractions 0..1; an undefined score (0/0) is null in JSON and `-` in the table.
"""

import math
from collections.abc import Sequence
from typing import Any

from segnl.core.arrays import Floats
from segnl.metrics.confusion import Confusion, number_or_none

NAME_WIDTH = 24


def metrics_dict(
    confusion: Confusion, names: Sequence[str], *, num_images: int, counts_absent_classes: bool = False
) -> dict[str, Any]:
    """Returns the scores for metrics.json, null instead of NaN.

    miou: mean over the classes in label or prediction (`classes_averaged` of them); mean_acc: over those in the labels.
    counts_absent_classes: adds miou_official150, the mean over all classes with an absent one counting 0, and
    score = (pixel_acc + miou_official150) / 2, as ADE20K's benchmark has them.

    Raises ValueError when there is not one name for each class, or a name stands twice.
    """
    _check_names(confusion, names)
    result: dict[str, Any] = {
        "miou": number_or_none(confusion.miou()),
        "pixel_acc": number_or_none(confusion.pixel_acc()),
        "mean_acc": number_or_none(confusion.mean_acc()),
        "frequency_weighted_iou": number_or_none(confusion.frequency_weighted_iou()),
        "classes_averaged": confusion.classes_averaged(),
        "num_classes": confusion.num_classes,
        "num_images": num_images,
        "num_pixels": int(confusion.matrix.sum()),
        "predicted_void": int(confusion.matrix[:, -1].sum()),
        "per_class": _by_name(names, confusion.iou()),
        "per_class_acc": _by_name(names, confusion.recall()),
        "per_class_precision": _by_name(names, confusion.precision()),
        "per_class_f1": _by_name(names, confusion.f1()),
        "per_class_pixels": dict(zip(names, confusion.target().tolist(), strict=True)),
    }
    if counts_absent_classes:
        official = confusion.miou_over_all()
        result["miou_official150"] = number_or_none(official)
        result["score"] = number_or_none((confusion.pixel_acc() + official) / 2)
    return result | {"complete": True}


def table_text(
    confusion: Confusion, names: Sequence[str], *, num_images: int, counts_absent_classes: bool = False
) -> str:
    """Returns the scores for people: a line a class in percent, then the means, without a final newline."""
    _check_names(confusion, names)
    width = max(NAME_WIDTH, *(len(name) for name in names))
    lines = [f"{'class':<{width}}    IoU     acc    prec      F1   share"]
    fraction = confusion.target() / max(int(confusion.matrix.sum()), 1)
    columns = (confusion.iou(), confusion.recall(), confusion.precision(), confusion.f1(), fraction)
    for name, *values in zip(names, *columns, strict=True):
        lines.append(f"{name:<{width}}" + "".join(f" {_percent(value):>7}" for value in values))
    lines.append("-" * len(lines[0]))
    averaged_over = f"{confusion.classes_averaged()} of {confusion.num_classes} classes"
    rows = [
        ("mIoU", confusion.miou(), f"mean over {averaged_over}, those in label or prediction"),
        ("pixel accuracy", confusion.pixel_acc(), f"{int(confusion.matrix.sum()):,} labelled pixels"),
        ("mean accuracy", confusion.mean_acc(), f"over {int((confusion.target() > 0).sum())} classes in the labels"),
        ("frequency-weighted IoU", confusion.frequency_weighted_iou(), ""),
    ]
    if counts_absent_classes:
        official = confusion.miou_over_all()
        rows.append((f"mIoU, official {confusion.num_classes}", official, "over all classes, an absent one counting 0"))
        rows.append(("score", (confusion.pixel_acc() + official) / 2, "(pixel accuracy + official mIoU) / 2"))
    lines += [f"{name:<{width}} {_percent(value):>7}   {note}".rstrip() for name, value, note in rows]
    lines.append(f"{'images':<{width}} {num_images:>7}")
    return "\n".join(lines)


def _check_names(confusion: Confusion, names: Sequence[str]) -> None:
    if len(names) != confusion.num_classes or len(set(names)) != len(names):
        raise ValueError(f"names: {len(set(names))} different of {len(names)}; expected {confusion.num_classes}")


def _by_name(names: Sequence[str], values: Floats) -> dict[str, float | None]:
    return {name: number_or_none(value) for name, value in zip(names, values.tolist(), strict=True)}


def _percent(value: float) -> str:
    return f"{100 * value:.2f}" if math.isfinite(value) else "-"
