"""Counts by location: near boundaries, by component size, by row, by distance from the image's centre.

Every stratum is a sum of integers over images, so the sum over ranks is exact. Distances are in pixels of the label,
the larger of rows and columns: a square of side 2 width + 1 around each pixel. Imports no torch.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segnl.core import IGNORE
from segnl.core.arrays import Counts, Floats, Mask, Pixels
from segnl.metrics.confusion import Confusion, mean_of_defined, number_or_none, ratio

WIDTHS_PX = (1, 3, 5, 10, 20)
COMPONENT_PX = (0, 64, 256, 1024, 4096, 16384, 65536)
"""Smallest number of pixels of a connected component in each size class; 256 is 16x16."""
NUM_ROWS = 10
NUM_RINGS = 5


class Strata:
    """Counts of one evaluation, split by the location of a pixel in the image and in the label.

    counts, all int64, by name:
        boundary       `widths 3 k`     intersection, target and prediction counts of the boundaries
        trimap         `widths k k+1`   confusion within so many pixels of a boundary of the label
        component      `sizes 3`        correct pixels, pixels, components, by size of the label's component
        row, ring      `bins k k+1`     confusion by tenth of the height; by distance from the centre
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

        Predictions are ignored where the label is, so the edge of an ignored region is a boundary in both and no error.
        Raises ValueError for other shapes and values; nothing is counted then.
        """
        confusion = Confusion(self.num_classes)
        confusion.counts(pred, label)  # raises for shapes that differ and values out of range
        for index, width in enumerate(WIDTHS_PX):
            self.counts["boundary"][index] += boundary_counts(pred, label, width, self.num_classes)
            near = is_near_boundary(label, width, border_counts=False)
            self.counts["trimap"][index] += confusion.counts(pred[near], label[near])
        self.counts["component"] += component_counts(pred, label)
        for index, rows in enumerate(np.array_split(np.arange(label.shape[0]), NUM_ROWS)):
            self.counts["row"][index] += confusion.counts(pred[rows], label[rows])
        ring = ring_of(label.shape)
        for index in range(NUM_RINGS):
            self.counts["ring"][index] += confusion.counts(pred[ring == index], label[ring == index])

    def merge(self, other: "Strata") -> None:
        """Adds another rank's counts, of as many classes."""
        for name, counts in other.counts.items():
            self.counts[name] += counts

    def to_dict(self) -> dict[str, Any]:
        """Returns `strata` of metrics.json: fractions, null for undefined, means over the classes that occur."""
        iou_by_width = boundary_iou(self.counts["boundary"])  # widths k
        widths = [str(width) for width in WIDTHS_PX]
        correct, pixels, components = self.counts["component"].T
        sizes = zip(COMPONENT_PX, ratio(correct, pixels), pixels.tolist(), components.tolist(), strict=True)
        return {
            "boundary_iou": dict(zip(widths, map(number_or_none, map(mean_of_defined, iou_by_width)), strict=True)),
            "trimap_iou": dict(zip(widths, self._mious("trimap"), strict=True)),
            "recall_by_component": [
                {"min_px": min_px, "recall": number_or_none(recall), "pixels": num_pixels, "components": num_components}
                for min_px, recall, num_pixels, num_components in sizes
            ],
            "iou_by_row": self._mious("row"),
            "iou_by_distance": self._mious("ring"),
        }

    def _mious(self, name: str) -> list[float | None]:
        return [number_or_none(Confusion(self.num_classes, matrix).miou()) for matrix in self.counts[name]]


def is_near_boundary(ids: Pixels, width: int, *, border_counts: bool) -> Mask:
    """Marks pixels with another id (255 included) at most `width` pixels away, bool `H W`.

    border_counts: whether the image's border is a boundary too, as in boundary IoU (Cheng et al. 2021, "Boundary IoU",
    arXiv:2103.16562). A trimap has it not.
    """
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    # The largest and the smallest id around both equal the pixel's own only where there is no other id.
    near = np.asarray((cv2.dilate(ids, square) != ids) | (cv2.erode(ids, square) != ids))
    if border_counts:
        near[:width] = near[-width:] = True
        near[:, :width] = near[:, -width:] = True
    return near


def boundary_width(hw: tuple[int, ...]) -> int:
    """Returns 0.5 % of the image's diagonal in whole pixels, at least 1: the width of the single boundary IoU."""
    return max(1, round(0.005 * float(np.hypot(hw[0], hw[1]))))


def boundary_counts(pred: Pixels, label: Pixels, width: int, num_classes: int) -> Counts:
    """Counts each class's boundary pixels: intersection, target and prediction, int64 `3 k`.

    Predictions are ignored where the label is, so the edge of an ignored region is a boundary in both and no error.
    """
    pred = np.where(label == IGNORE, np.uint8(IGNORE), pred)
    on_label = is_near_boundary(label, width, border_counts=True)
    on_pred = is_near_boundary(pred, width, border_counts=True)
    both = on_label & on_pred & (pred == label)
    ids_of = (label[both], label[on_label], pred[on_pred])
    return np.stack([np.bincount(ids, minlength=256)[:num_classes] for ids in ids_of])


def boundary_iou(counts: Counts) -> Floats:
    """Returns the boundaries' IoU, f64 `... k`; NaN for a class in neither label nor prediction.

    counts: sums of `boundary_counts`, `... 3 k`.
    Source: Cheng et al. 2021, "Boundary IoU", arXiv:2103.16562; here for whole classes, not for single objects.
    """
    intersection, target, prediction = np.moveaxis(counts, -2, 0)  # ... k each
    return ratio(intersection, target + prediction - intersection)


def pair_counts(pred: Pixels, label: Pixels, ambiguous: Pixels, num_pairs: int) -> Counts:
    """Counts correct pixels and all pixels of each ambiguous pair, int64 `pairs 2`; sum over a split, then divide.

    pred, label: train ids u8 `H W`; ambiguous: u8 `H W`, 0 or 1 + the pair's place. A pixel predicted as a third class
    is wrong, so a model that knows a pair's look but not its cue reaches 0.5, and one that does not even know the look
    less.
    """
    if not pred.shape == label.shape == ambiguous.shape:
        raise ValueError(f"pred {pred.shape}, label {label.shape} and ambiguous {ambiguous.shape} differ in shape")
    total = np.bincount(ambiguous.ravel(), minlength=num_pairs + 1)
    correct = np.bincount(ambiguous[pred == label], minlength=num_pairs + 1)
    return np.stack([correct, total], axis=1)[1:].astype(np.int64)


def pair_accuracy(counts: Counts) -> Floats:
    """Returns the correctly predicted fraction of each ambiguous pair's pixels, f64 `pairs`.

    counts: sums of `pair_counts`, `pairs 2`.
    """
    correct, total = counts.T
    return ratio(correct, total)


def component_counts(pred: Pixels, label: Pixels) -> Counts:
    """Counts by size of the label's components (8 neighbours): correct pixels, pixels, components; int64 `sizes 3`."""
    out = np.zeros((len(COMPONENT_PX), 3), np.int64)
    for index in np.unique(label[label != IGNORE]):
        component, pixels, size = _components(label == index)
        correct = np.bincount(component[(label == index) & (pred == index)], minlength=len(pixels) + 1)[1:]
        np.add.at(out, size, np.stack([correct, pixels, np.ones_like(pixels)], axis=1))
    return out


def component_size_of(label: Pixels) -> Pixels:
    """Returns the size class (place in COMPONENT_PX) of each pixel's component, u8 `H W`; 255 where ignored."""
    out = np.full(label.shape, IGNORE, np.uint8)
    for index in np.unique(label[label != IGNORE]):
        component, _, size = _components(label == index)
        is_class = component > 0
        out[is_class] = size[component[is_class] - 1]
    return out


def _components(is_class: Mask) -> tuple[npt.NDArray[np.int32], Counts, npt.NDArray[np.intp]]:
    """Returns each pixel's component `H W` (0: none), and of components 1.. the number of pixels and the size class."""
    number, component = cv2.connectedComponents(is_class.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    pixels = np.bincount(component.ravel(), minlength=number)[1:]  # 0 is the rest of the image
    return np.asarray(component, np.int32), pixels, np.searchsorted(COMPONENT_PX, pixels, side="right") - 1


def ring_of(hw: tuple[int, ...]) -> npt.NDArray[np.intp]:
    """Returns each pixel's ring `H W`: NUM_RINGS rings of equal width, from the centre (0) to the corners."""
    row, column = (np.abs(np.arange(length) - (length - 1) / 2) / (length / 2) for length in hw)
    distance = np.hypot(row[:, None], column[None]) / np.sqrt(2)  # 0 at the centre, less than 1 in a corner
    return np.asarray((distance * NUM_RINGS).astype(np.intp))
