"""The scores of one evaluation as plain numbers for metrics.json and as a table for the terminal. Imports no torch.

Fractions 0..1; an undefined score (0/0) is null in JSON and `-` in the table.
"""

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
    if len(names) != confusion.num_classes or len(set(names)) != len(names):
        raise ValueError(f"names: {len(set(names))} different of {len(names)}; expected {confusion.num_classes}")
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
    scores = metrics_dict(confusion, names, num_images=num_images, counts_absent_classes=counts_absent_classes)
    width = max(NAME_WIDTH, *(len(name) for name in names))
    lines = [f"{'class':<{width}}    IoU     acc    prec      F1   share"]
    columns = [scores[f"per_class{kind}"] for kind in ("", "_acc", "_precision", "_f1")]
    for name, pixels in scores["per_class_pixels"].items():
        values = [*(column[name] for column in columns), pixels / max(scores["num_pixels"], 1)]
        lines.append(f"{name:<{width}}" + "".join(f" {_percent(value):>7}" for value in values))
    lines.append("-" * len(lines[0]))
    averaged_over = f"{scores['classes_averaged']} of {confusion.num_classes} classes"
    rows = [
        ("mIoU", "miou", f"mean over {averaged_over}, those in label or prediction"),
        ("pixel accuracy", "pixel_acc", f"{scores['num_pixels']:,} labelled pixels"),
        ("mean accuracy", "mean_acc", f"over {int((confusion.target() > 0).sum())} classes in the labels"),
        ("frequency-weighted IoU", "frequency_weighted_iou", ""),
    ]
    if counts_absent_classes:
        official = f"mIoU, official {confusion.num_classes}"
        rows.append((official, "miou_official150", "over all classes, an absent one counting 0"))
        rows.append(("score", "score", "(pixel accuracy + official mIoU) / 2"))
    lines += [f"{name:<{width}} {_percent(scores[key]):>7}   {note}".rstrip() for name, key, note in rows]
    lines.append(f"{'images':<{width}} {num_images:>7}")
    return "\n".join(lines)


def _by_name(names: Sequence[str], values: Floats) -> dict[str, float | None]:
    return dict(zip(names, map(number_or_none, values.tolist()), strict=True))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
