"""The confusion matrix, exact in int64, and every score that follows from it. Imports no torch.

Legend: k classes; row c of the matrix holds the pixels whose truth is c, column p those predicted as p, column k those
predicted void (255). Pixels whose truth is 255 are counted nowhere.
"""

import functools
import math
import sys
from typing import TYPE_CHECKING, TypeAlias

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

Map: TypeAlias = "Ids | Tensor"


class Confusion:
    """How often each true class was predicted as each class, over any number of maps.

    Scores are fractions 0..1; where one is undefined (0/0) it is NaN and left out of the means.
    """

    def __init__(self, num_classes: int, matrix: Counts | None = None) -> None:
        """matrix: counts to start from, non-negative, `k k+1` (a sum over ranks, say); copied.

        Raises ValueError when num_classes is not in 1..255 or the matrix does not fit it.
        """
        if not 1 <= num_classes <= MAX_CLASSES:
            raise ValueError(f"num_classes: {num_classes}; expected 1..{MAX_CLASSES}, since 255 is void")
        shape = (num_classes, num_classes + 1)
        if matrix is not None and (matrix.shape != shape or matrix.dtype.kind not in "iu" or np.any(matrix < 0)):
            raise ValueError(f"matrix: {matrix.dtype} {matrix.shape}; expected non-negative integers {shape}")
        self.num_classes = num_classes
        self.matrix: Counts = np.zeros(shape, np.int64) if matrix is None else matrix.astype(np.int64)

    def update(self, pred: Map, label: Map) -> None:
        """Counts one map, or a stack of them, of predicted and true classes.

        pred, label: integers of one shape, 0..k-1 or 255; NumPy arrays or torch tensors, counted on the GPU when both
        are there. A predicted 255 is a miss; where the label is 255 the pixel is not counted, whatever is predicted.

        Raises ValueError naming place and value when one is out of range; nothing is counted then.
        """
        self.matrix += self.counts(pred, label)

    def counts(self, pred: Map, label: Map) -> Counts:
        """The matrix int64 `k k+1` of these maps alone; nothing is added. Raises as `update` does."""
        for name, values in (("pred", pred), ("label", label)):
            if not _is_integer(values):
                raise ValueError(f"{name}: {values.dtype}; expected integers (class indices, not scores)")
        if tuple(pred.shape) != tuple(label.shape):
            raise ValueError(f"pred {tuple(pred.shape)} and label {tuple(label.shape)}: expected one shape")
        if _is_tensor(pred) and _is_tensor(label) and pred.is_cuda and label.is_cuda:  # type: ignore[union-attr]
            joint = _joint_on_device(pred, label, self.num_classes)  # type: ignore[arg-type]
        else:
            joint = joint_counts(_as_u8(pred, "pred", self.num_classes), _as_u8(label, "label", self.num_classes))
        k = self.num_classes
        places = [*range(k), IGNORE]
        allowed = joint[np.ix_(places, places)]  # k+1 k+1
        if int(allowed.sum()) != math.prod(label.shape):
            self._refuse(pred, label)
        return allowed[:k]

    def _refuse(self, pred: Map, label: Map) -> None:
        for name, values in (("pred", pred), ("label", label)):
            _check_range(_as_numpy(values), name, self.num_classes)

    def merge(self, other: "Confusion") -> None:
        """Adds another's counts, such as another rank's. Raises ValueError when it has other classes."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"merge: {other.num_classes} classes into {self.num_classes}; expected the same")
        self.matrix += other.matrix

    def right(self) -> Counts:
        """Pixels of each class that were predicted right, int64 `k`."""
        return self.matrix.diagonal().copy()

    def true(self) -> Counts:
        """Pixels of each class in the truth, those predicted void included, int64 `k`."""
        return np.asarray(self.matrix.sum(axis=1))

    def predicted(self) -> Counts:
        """Pixels predicted as each class where there is truth, int64 `k`."""
        return np.asarray(self.matrix[:, : self.num_classes].sum(axis=0))

    def iou(self) -> Floats:
        """Intersection over union of each class, f64 `k`.

        NaN for a class in neither truth nor prediction; 0 for one predicted but absent from the truth.
        """
        return ratio(self.right(), self.true() + self.predicted() - self.right())

    def recall(self) -> Floats:
        """The share of each class's true pixels that was found (its accuracy), f64 `k`; NaN where it has none."""
        return ratio(self.right(), self.true())

    def precision(self) -> Floats:
        """The share of the pixels predicted as each class that is right, f64 `k`; NaN where there are none."""
        return ratio(self.right(), self.predicted())

    def f1(self) -> Floats:
        """Harmonic mean of precision and recall (Dice), f64 `k`; NaN for a class in neither truth nor prediction."""
        return ratio(2 * self.right(), self.true() + self.predicted())

    def miou(self) -> float:
        """Mean IoU over the classes in truth or prediction; NaN when there are none."""
        return mean_of_defined(self.iou())

    def miou_over_all(self) -> float:
        """Mean IoU over all k classes, one in neither truth nor prediction counting 0 (ADE20K's official mean)."""
        return float(np.nan_to_num(self.iou(), nan=0.0).mean())

    def pixel_acc(self) -> float:
        """The share of all labelled pixels that is right; NaN when there are none."""
        return float(ratio(self.right().sum(), self.matrix.sum()))

    def mean_acc(self) -> float:
        """Mean recall over the classes present in the truth; NaN when there are none."""
        return mean_of_defined(self.recall())

    def frequency_weighted_iou(self) -> float:
        """Mean IoU with each class weighted by its share of the true pixels; NaN when there are none."""
        return float(ratio((self.true() * np.nan_to_num(self.iou())).sum(), self.true().sum()))

    def classes_averaged(self) -> int:
        """How many classes `miou` is the mean of."""
        return int(np.isfinite(self.iou()).sum())


def ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    """part / whole in f64, NaN where whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    undefined = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    return np.asarray(np.divide(part, whole, out=undefined, where=whole != 0))


def mean_of_defined(values: Floats) -> float:
    """Mean of those that are not NaN; NaN when all are."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _is_tensor(values: object) -> bool:
    torch = sys.modules.get("torch")  # whoever holds a tensor has imported it already
    return torch is not None and isinstance(values, torch.Tensor)


def _is_integer(values: Map) -> bool:
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "iu"
    return not (values.is_floating_point() or values.is_complex() or "bool" in str(values.dtype))


def _as_numpy(values: Map) -> Ids:
    return values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()


def _as_u8(values: Map, name: str, num_classes: int) -> Pixels:
    """The same values in 8 bits, rows of contiguous memory; those that do not fit into them are refused."""
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
    raise ValueError(f"{name}: {where} holds {int(array[place])}; expected 0..{num_classes - 1} or {IGNORE} (void)")


def joint_counts(pred: Pixels, label: Pixels, *, num_ids: int = 256) -> Counts:
    """How often each (label, pred) stands at one place, int64 `num_ids num_ids`; ids from num_ids on are left out."""
    flat_pred, flat_label = pred.reshape(1, -1), label.reshape(1, -1)
    tiles = [slice(first, first + TILE_PIXELS) for first in range(0, label.size, TILE_PIXELS)]
    counts = [_tile_counts(flat_pred[:, tile], flat_label[:, tile], num_ids) for tile in tiles]
    return functools.reduce(np.add, counts) if counts else np.zeros((num_ids, num_ids), np.int64)


def _tile_counts(pred: Pixels, label: Pixels, num_ids: int) -> Counts:
    """The same of maps `1 n` of at most TILE_PIXELS.

    Neighbours are mostly alike, and a counter that has just been written has to be waited for. So every second pixel is
    counted apart, which halves the time of a constant map.
    """
    places, sizes = _every_second()[:, : pred.size], [num_ids, num_ids, 2]
    counts = cv2.calcHist([label, pred, places], [0, 1, 2], None, sizes, [0, num_ids, 0, num_ids, 0, 2])
    return np.asarray((counts[..., 0] + counts[..., 1]).astype(np.int64))


@functools.cache
def _every_second() -> Pixels:
    """0 1 0 1 ..., `1 TILE_PIXELS`."""
    return np.tile(np.array([[0, 1]], np.uint8), TILE_PIXELS // 2)


def _joint_on_device(pred: "Tensor", label: "Tensor", num_classes: int) -> Counts:
    """The same without moving the maps: only 65,536 counts travel."""
    import torch

    if pred.numel() == 0:
        return np.zeros((256, 256), np.int64)
    for name, values in (("pred", pred), ("label", label)):
        if int(values.min()) < 0 or int(values.max()) > IGNORE:
            _check_range(_as_numpy(values), name, num_classes)
    index = label.detach().flatten().to(torch.int64) * 256 + pred.detach().flatten().to(torch.int64)
    found: Counts = torch.bincount(index, minlength=256 * 256).cpu().numpy()
    return found.reshape(256, 256)
