"""The confusion matrix, exact in int64, the scores derived from it, and their report. Imports no torch.

Legend: k classes. Row c of the matrix holds the pixels labelled c, column p those predicted as p, column k those
predicted as ignored (255). Pixels whose label is 255 are not counted.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from segnl.core import IGNORE
from segnl.core.arrays import Counts, Floats, Ids, Pixels

if TYPE_CHECKING:
    from torch import Tensor

MAX_CLASSES = 255
# calcHist returns float32, which is exact up to 2^24: a tile may not hold more pixels than that.
TILE_PIXELS = 2**21

LabelMap: TypeAlias = "Ids | Tensor"


class Confusion:
    """Pixel counts by label and prediction, over any number of images.

    Scores are fractions 0..1. An undefined score (0/0) is NaN and left out of the means.
    """

    def __init__(self, num_classes: int, matrix: Counts | None = None) -> None:
        """matrix: counts to start from, non-negative integers `k k+1`, such as a sum over ranks; copied.

        Raises ValueError when num_classes is not in 1..255 or the matrix does not fit it.
        """
        if not 1 <= num_classes <= MAX_CLASSES:
            raise ValueError(f"num_classes: {num_classes}; expected 1..{MAX_CLASSES}, since 255 is ignored")
        shape = (num_classes, num_classes + 1)
        if matrix is not None and (matrix.shape != shape or matrix.dtype.kind not in "iu" or np.any(matrix < 0)):
            raise ValueError(f"matrix: {matrix.dtype} {matrix.shape}; expected non-negative integers {shape}")
        self.num_classes = num_classes
        self.matrix: Counts = np.zeros(shape, np.int64) if matrix is None else matrix.astype(np.int64)

    def update(self, pred: LabelMap, label: LabelMap) -> None:
        """Counts one label map, or a stack of them.

        pred, label: integers of one shape, 0..k-1 or 255; NumPy arrays or torch tensors, counted on the GPU when both
        are there. A predicted 255 is a miss; where the label is 255 the pixel is not counted.

        Raises ValueError naming place and value when one is out of range; nothing is counted then.
        """
        self.matrix += self.counts(pred, label)

    def counts(self, pred: LabelMap, label: LabelMap) -> Counts:
        """Returns the matrix int64 `k k+1` of these maps alone, without adding it. Raises as `update` does."""
        for name, values in (("pred", pred), ("label", label)):
            if not _is_integer(values):
                raise ValueError(f"{name}: {values.dtype}; expected integers (class indices, not scores)")
        if tuple(pred.shape) != tuple(label.shape):
            raise ValueError(f"pred {tuple(pred.shape)} and label {tuple(label.shape)}: expected one shape")
        if getattr(pred, "is_cuda", False) and getattr(label, "is_cuda", False):
            joint = _joint_on_device(pred, label, self.num_classes)  # type: ignore[arg-type]
        else:
            joint = joint_counts(_as_u8(pred, "pred", self.num_classes), _as_u8(label, "label", self.num_classes))
        k = self.num_classes
        ids = [*range(k), IGNORE]
        allowed = joint[np.ix_(ids, ids)]  # k+1 k+1
        if int(allowed.sum()) != math.prod(label.shape):
            for name, values in (("pred", pred), ("label", label)):
                _check_range(_as_numpy(values), name, k)
        return allowed[:k]

    def merge(self, other: "Confusion") -> None:
        """Adds another matrix, such as another rank's. Raises ValueError when the number of classes differs."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"merge: {other.num_classes} classes into {self.num_classes}; expected the same")
        self.matrix += other.matrix

    def intersection(self) -> Counts:
        """Returns the correctly predicted pixels of each class, int64 `k`."""
        return self.matrix.diagonal().copy()

    def target(self) -> Counts:
        """Returns the labelled pixels of each class, those predicted as ignored included, int64 `k`."""
        return np.asarray(self.matrix.sum(axis=1))

    def prediction(self) -> Counts:
        """Returns the labelled pixels that are predicted as each class, int64 `k`."""
        return np.asarray(self.matrix[:, : self.num_classes].sum(axis=0))

    def union(self) -> Counts:
        """Returns the pixels of each class in label or prediction, int64 `k`."""
        return self.target() + self.prediction() - self.intersection()

    def iou(self) -> Floats:
        """Returns the intersection over union of each class, f64 `k`.

        NaN for a class in neither label nor prediction; 0 for one that is predicted but not in the labels.
        """
        return ratio(self.intersection(), self.union())

    def recall(self) -> Floats:
        """Returns the correct fraction of each class's labelled pixels (its accuracy), f64 `k`; NaN without any."""
        return ratio(self.intersection(), self.target())

    def precision(self) -> Floats:
        """Returns the correct fraction of the pixels predicted as each class, f64 `k`; NaN without any."""
        return ratio(self.intersection(), self.prediction())

    def f1(self) -> Floats:
        """Returns the harmonic mean of precision and recall (Dice), f64 `k`; NaN as for `iou`."""
        return ratio(2 * self.intersection(), self.target() + self.prediction())

    def miou(self) -> float:
        """Returns the mean IoU over the classes in label or prediction; NaN when there are none."""
        return mean_of_defined(self.iou())

    def miou_over_all(self) -> float:
        """Returns the mean IoU over all k classes, one in neither label nor prediction counting 0 (ADE20K's mean)."""
        return float(np.nan_to_num(self.iou(), nan=0.0).mean())

    def pixel_acc(self) -> float:
        """Returns the fraction of all labelled pixels that is correct; NaN when there are none."""
        return float(ratio(self.intersection().sum(), self.matrix.sum()))

    def mean_acc(self) -> float:
        """Returns the mean recall over the classes in the labels; NaN when there are none."""
        return mean_of_defined(self.recall())

    def frequency_weighted_iou(self) -> float:
        """Returns the mean IoU, each class weighted by its fraction of the labelled pixels; NaN when there are none."""
        return float(ratio((self.target() * np.nan_to_num(self.iou())).sum(), self.target().sum()))

    def classes_averaged(self) -> int:
        """Returns the number of classes that `miou` is the mean of."""
        return int(np.isfinite(self.iou()).sum())


def ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Floats:
    """Divides in f64; NaN where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    undefined = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=denominator != 0))


def mean_of_defined(values: Floats) -> float:
    """Returns the mean of the values that are not NaN; NaN when all are."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else float("nan")


def number_or_none(value: float) -> float | None:
    """Returns a plain number for JSON; None for NaN."""
    return float(value) if math.isfinite(value) else None


def _is_integer(values: LabelMap) -> bool:
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "iu"
    return not (values.is_floating_point() or values.is_complex() or "bool" in str(values.dtype))


def _as_numpy(values: LabelMap) -> Ids:
    return values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()


def _as_u8(values: LabelMap, name: str, num_classes: int) -> Pixels:
    """Returns the values as contiguous 8 bits. Raises ValueError for one that does not fit."""
    array = _as_numpy(values)
    if array.dtype != np.uint8:
        if array.size and not 0 <= int(array.min()) <= int(array.max()) <= IGNORE:
            _check_range(array, name, num_classes)
        array = array.astype(np.uint8)
    return np.ascontiguousarray(array)


def _check_range(array: Ids, name: str, num_classes: int) -> None:
    wrong = ((array < 0) | (array >= num_classes)) & (array != IGNORE)
    if not wrong.any():
        return
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    where = f"(row {place[-2]}, column {place[-1]})" if len(place) > 1 else f"{place[0]}"
    where = f"map {place[0]}, pixel {where}" if len(place) == 3 else f"pixel {where}"
    raise ValueError(f"{name}: {where} holds {int(array[place])}; expected 0..{num_classes - 1} or {IGNORE} (ignored)")


def joint_counts(pred: Pixels, label: Pixels, *, num_ids: int = 256) -> Counts:
    """Counts the pixels of each (label, pred), int64 `num_ids num_ids`; ids from num_ids on are left out."""
    counts = np.zeros((num_ids, num_ids), np.int64)
    for first in range(0, label.size, TILE_PIXELS):
        tiles = [ids.reshape(1, -1)[:, first : first + TILE_PIXELS] for ids in (label, pred)]
        counts += cv2.calcHist(tiles, [0, 1], None, [num_ids] * 2, [0, num_ids] * 2).astype(np.int64)
    return counts


def _joint_on_device(pred: "Tensor", label: "Tensor", num_classes: int) -> Counts:
    """Counts on the GPU: 65,536 counts are copied instead of the maps."""
    import torch

    if pred.numel() == 0:
        return np.zeros((256, 256), np.int64)
    for name, values in (("pred", pred), ("label", label)):
        if int(values.min()) < 0 or int(values.max()) > IGNORE:
            _check_range(_as_numpy(values), name, num_classes)
    index = label.detach().flatten().to(torch.int64) * 256 + pred.detach().flatten().to(torch.int64)
    joint: Counts = torch.bincount(index, minlength=256 * 256).cpu().numpy()
    return joint.reshape(256, 256)


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
    width = max(24, *(len(name) for name in names))
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
