"""Where the errors are: at boundaries, in small things, high or low in the image, far from its centre.

Every stratum is a sum of integers over images, so ranks merge exactly. Distances are in pixels of the label: the
larger of rows and columns (a square of side 2 width + 1 around each pixel). Imports no torch.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segnl.core import IGNORE
from segnl.core.arrays import Counts, Mask, Pixels
from segnl.metrics.confusion import Confusion, mean_of_defined, ratio

WIDTHS_PX = (1, 3, 5, 10, 20)
COMPONENT_PX = (0, 64, 256, 1024, 4096, 16384, 65536)
"""Least pixels of a connected component in each class of size; 256 is 16x16."""
NUM_ROWS = 10
NUM_RINGS = 5


class Strata:
    """Counts of one evaluation, split by where in the image and in the truth a pixel lies.

    counts, all int64, by name:
        boundary       `widths 3 k`     right on both boundaries, on the truth's, on the prediction's
        trimap         `widths k k+1`   confusion within so many pixels of a boundary of the truth
        component      `sizes 3`        pixels found, pixels, components, by size of the truth's component
        row, ring      `parts k k+1`    confusion by tenth of the height; by distance from the centre
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = k = num_classes
        self.counts: dict[str, Counts] = {
            "boundary": np.zeros((len(WIDTHS_PX), 3, k), np.int64),
            "trimap": np.zeros((len(WIDTHS_PX), k, k + 1), np.int64),
            "component": np.zeros((len(COMPONENT_PX), 3), np.int64),
            "row": np.zeros((NUM_ROWS, k, k + 1), np.int64),
            "ring": np.zeros((NUM_RINGS, k, k + 1), np.int64),
        }

    def update(self, pred: Pixels, label: Pixels) -> None:
        """Counts one image: train ids u8 `H W`, 0..k-1 or 255.

        Where the truth is void nothing is predicted either: its edge is then one of both, and no error.
        Raises ValueError for other shapes, types and values; nothing is counted then.
        """
        if pred.ndim != 2 or pred.shape != label.shape or pred.dtype != np.uint8 or label.dtype != np.uint8:
            raise ValueError(
                f"pred {pred.dtype} {pred.shape}, label {label.dtype} {label.shape}; expected u8 `H W` twice"
            )
        confusion = Confusion(self.num_classes)
        confusion.counts(pred, label)  # refuses values out of range
        for index, width in enumerate(WIDTHS_PX):
            self.counts["boundary"][index] += boundary_counts(pred, label, width, self.num_classes)
            near = is_near_boundary(label, width, border_counts=False)
            self.counts["trimap"][index] += confusion.counts(pred[near], label[near])
        self.counts["component"] += found_by_component(pred, label)
        for part, rows in enumerate(np.array_split(np.arange(label.shape[0]), NUM_ROWS)):
            self.counts["row"][part] += confusion.counts(pred[rows], label[rows])
        ring = ring_of(label.shape)
        for part in range(NUM_RINGS):
            self.counts["ring"][part] += confusion.counts(pred[ring == part], label[ring == part])

    def merge(self, other: "Strata") -> None:
        """Adds another rank's counts. Raises ValueError when it has other classes."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"merge: {other.num_classes} classes into {self.num_classes}; expected the same")
        for name, counts in other.counts.items():
            self.counts[name] += counts

    def as_json(self) -> dict[str, Any]:
        """What metrics.json holds under `strata`: fractions, null for undefined, means over classes that occur."""
        right, true, predicted = np.moveaxis(self.counts["boundary"], 1, 0)  # widths k each
        boundary_iou = ratio(right, true + predicted - right)
        found, pixels, components = self.counts["component"].T
        sizes = zip(COMPONENT_PX, ratio(found, pixels), pixels.tolist(), components.tolist(), strict=True)
        return {
            "boundary_iou": {
                str(w): _number(mean_of_defined(row)) for w, row in zip(WIDTHS_PX, boundary_iou, strict=True)
            },
            "trimap_iou": {str(w): self._miou("trimap", index) for index, w in enumerate(WIDTHS_PX)},
            "recall_by_component": [
                {"min_px": least, "recall": _number(recall), "pixels": count, "components": number}
                for least, recall, count, number in sizes
            ],
            "iou_by_row": [self._miou("row", part) for part in range(NUM_ROWS)],
            "iou_by_distance": [self._miou("ring", part) for part in range(NUM_RINGS)],
        }

    def _miou(self, name: str, part: int) -> float | None:
        return _number(Confusion(self.num_classes, self.counts[name][part]).miou())


def is_near_boundary(ids: Pixels, width: int, *, border_counts: bool) -> Mask:
    """Pixels with another id (void included) at most `width` pixels away, bool `H W`.

    border_counts: whether the image's border is a boundary too. With it, the pixels of one id are its mask's boundary
    as boundary IoU has it. Source: Cheng et al. 2021, "Boundary IoU", arXiv:2103.16562. Without, they are a trimap's.
    """
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    # The greatest and the least id around are both a pixel's own only where there is no other.
    near = np.asarray((cv2.dilate(ids, square) != ids) | (cv2.erode(ids, square) != ids))
    if border_counts:
        near[:width] = near[-width:] = True
        near[:, :width] = near[:, -width:] = True
    return near


def boundary_width(hw: tuple[int, ...]) -> int:
    """0.5 % of the image's diagonal in whole pixels, at least 1: the width at which a single boundary IoU is given."""
    return max(1, round(0.005 * float(np.hypot(hw[0], hw[1]))))


def boundary_counts(pred: Pixels, label: Pixels, width: int, num_classes: int) -> Counts:
    """Pixels of each class right on both boundaries, on the truth's, on the prediction's, int64 `3 k`.

    Where the truth is void nothing is predicted either: its edge is then one of both, and no error.
    """
    pred = np.where(label == IGNORE, np.uint8(IGNORE), pred)
    on_label = is_near_boundary(label, width, border_counts=True)
    on_pred = is_near_boundary(pred, width, border_counts=True)
    both = on_label & on_pred & (pred == label)
    chosen = (label[both], label[on_label], pred[on_pred])
    return np.stack([np.bincount(values, minlength=256)[:num_classes] for values in chosen])


def pair_counts(pred: Pixels, label: Pixels, ambiguous: Pixels, num_pairs: int) -> Counts:
    """Correct pixels and all pixels of each ambiguous pair, int64 `pairs 2`, to be summed over a split and divided.

    pred, label: train ids u8 `H W`; ambiguous: u8 `H W`, 0 or 1 + the pair's place. A pixel predicted as a third class
    is wrong, so a model that knows a pair's look but not its cue reaches 0.5, and one that does not even know the look
    less.
    """
    if not pred.shape == label.shape == ambiguous.shape:
        raise ValueError(f"pred {pred.shape}, label {label.shape} and ambiguous {ambiguous.shape} differ in shape")
    total = np.bincount(ambiguous.ravel(), minlength=num_pairs + 1)
    correct = np.bincount(ambiguous[pred == label], minlength=num_pairs + 1)
    return np.stack([correct, total], axis=1)[1:].astype(np.int64)


def found_by_component(pred: Pixels, label: Pixels) -> Counts:
    """Pixels found, pixels, components of the truth's connected components (8 neighbours) by size, int64 `sizes 3`."""
    out = np.zeros((len(COMPONENT_PX), 3), np.int64)
    for index in np.unique(label[label != IGNORE]):
        component, pixels, size = _components(label == index)
        found = np.bincount(component[(label == index) & (pred == index)], minlength=len(pixels) + 1)[1:]
        np.add.at(out, size, np.stack([found, pixels, np.ones_like(pixels)], axis=1))
    return out


def component_size_of(label: Pixels) -> Pixels:
    """Which of COMPONENT_PX's classes of size the truth's component of each pixel has, u8 `H W`; 255 where void."""
    out = np.full(label.shape, IGNORE, np.uint8)
    for index in np.unique(label[label != IGNORE]):
        component, _, size = _components(label == index)
        is_class = component > 0
        out[is_class] = size[component[is_class] - 1]
    return out


def _components(is_class: Mask) -> tuple[npt.NDArray[np.int32], Counts, npt.NDArray[np.intp]]:
    """Each pixel's component, 0 where there is none, `H W`; of the components 1.. the pixels and the class of size."""
    number, component = cv2.connectedComponents(is_class.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    pixels = np.bincount(component.ravel(), minlength=number)[1:]  # 0 is the rest of the image
    return np.asarray(component, np.int32), pixels, np.searchsorted(COMPONENT_PX, pixels, side="right") - 1


def ring_of(hw: tuple[int, ...]) -> npt.NDArray[np.intp]:
    """Which of NUM_RINGS rings of equal width each pixel lies in, from the centre (0) to the corners, `H W`."""
    row, column = (np.abs(np.arange(length) - (length - 1) / 2) / (length / 2) for length in hw)
    distance = np.hypot(row[:, None], column[None]) / np.sqrt(2)  # 0 at the centre, less than 1 in a corner
    return np.asarray((distance * NUM_RINGS).astype(np.intp))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
