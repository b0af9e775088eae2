"""Counts by location: near boundaries, by component size, by row, by distance from the image's centre.

Every stratum is a sum of integers over images, so the sum over ranks is exact. Distances are in pixels of the label,
the larger of rows and columns: a square of side 2 width + 1 around each pixel. Imports no torch.
"""

from collections.abc import Mapping
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
NUM_BINS = {"size": len(COMPONENT_PX), "distance": len(WIDTHS_PX) + 1, "row": NUM_ROWS, "ring": NUM_RINGS}
"""Bins of `bins_of`, by name."""


class Strata:
    """Counts of one evaluation, split by the location of a pixel in the image and in the label.

    counts, all int64: confusion matrices `bins k k+1` by the names in NUM_BINS, and
        boundary       `widths 3 k`     intersection, target and prediction counts of the boundaries
        components     `sizes`          components of the labels by size
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = k = num_classes
        self.counts: dict[str, Counts] = {name: np.zeros((bins, k, k + 1), np.int64) for name, bins in NUM_BINS.items()}
        self.counts["boundary"] = np.zeros((len(WIDTHS_PX), 3, k), np.int64)
        self.counts["components"] = np.zeros(len(COMPONENT_PX), np.int64)

    def update(self, pred: Pixels, label: Pixels) -> None:
        """Counts one image: train ids u8 `H W`, 0..k-1 or 255.

        Predictions are ignored where the label is, so the edge of an ignored region is a boundary in both and no error.
        Raises ValueError for other shapes and values; nothing is counted then.
        """
        Confusion(self.num_classes).counts(pred, label)  # raises for shapes that differ and values out of range
        bins, components = bins_of(label)
        add_by_bin({name: self.counts[name] for name in NUM_BINS}, bins, pred, label)
        self.counts["components"] += components
        for index, width in enumerate(WIDTHS_PX):
            self.counts["boundary"][index] += boundary_counts(pred, label, width, self.num_classes)

    def merge(self, other: "Strata") -> None:
        """Adds another rank's counts, of as many classes."""
        for name, counts in other.counts.items():
            self.counts[name] += counts

    def to_dict(self) -> dict[str, Any]:
        """Returns `strata` of metrics.json: fractions, null for undefined, means over the classes that occur."""
        iou_by_width = boundary_iou(self.counts["boundary"])  # widths k
        # A trimap holds the pixels of all bins up to its width.
        trimaps = self.counts["distance"].cumsum(axis=0)[: len(WIDTHS_PX)]
        widths = [str(width) for width in WIDTHS_PX]
        recall, pixels = recall_by_bin(self.counts["size"]), self.counts["size"].sum(axis=(1, 2)).tolist()
        sizes = zip(COMPONENT_PX, recall, pixels, self.counts["components"].tolist(), strict=True)
        return {
            "boundary_iou": dict(zip(widths, map(number_or_none, map(mean_of_defined, iou_by_width)), strict=True)),
            "trimap_iou": dict(zip(widths, map(number_or_none, iou_by_bin(trimaps)), strict=True)),
            "recall_by_component": [
                {"min_px": min_px, "recall": number_or_none(recall), "pixels": num_pixels, "components": num_components}
                for min_px, recall, num_pixels, num_components in sizes
            ],
            "iou_by_row": [number_or_none(iou) for iou in iou_by_bin(self.counts["row"])],
            "iou_by_distance": [number_or_none(iou) for iou in iou_by_bin(self.counts["ring"])],
        }


def bins_of(label: Pixels) -> tuple[dict[str, Pixels], Counts]:
    """Returns each pixel's bin, u8 `H W`, by the names in NUM_BINS, and the number of components of each size.

    label: train ids u8 `H W`, 255 ignored. distance: 0 within WIDTHS_PX[0] of another id, 1 within WIDTHS_PX[1] and so
    on; the last bin is farther than all.
    """
    is_far = [~is_near_boundary(label, width, border_counts=False) for width in WIDTHS_PX]
    bands = [len(rows) for rows in np.array_split(np.arange(label.shape[0]), NUM_ROWS)]
    row = np.broadcast_to(np.repeat(np.arange(NUM_ROWS, dtype=np.uint8), bands)[:, None], label.shape)
    size, components = component_sizes(label)
    distance: Pixels = np.sum(is_far, axis=0, dtype=np.uint8)
    return {"size": size, "distance": distance, "row": row, "ring": ring_of(label.shape).astype(np.uint8)}, components


def add_by_bin(counts: Mapping[str, Counts], bins: Mapping[str, Pixels], pred: Pixels, label: Pixels) -> None:
    """Adds one image's labelled pixels to the matrices `bins k k+1`. pred, label: train ids u8 `H W`, 255 ignored."""
    scored = label != IGNORE
    for name, matrix in counts.items():
        num_bins, k, columns = matrix.shape
        cell = (bins[name][scored].astype(np.intp) * k + label[scored]) * columns + np.minimum(pred[scored], k)
        matrix += np.bincount(cell, minlength=num_bins * k * columns).reshape(matrix.shape)


def iou_by_bin(counts: Counts) -> Floats:
    """Returns the mean IoU in each bin over the classes that occur there, f64 `bins`; NaN where nothing is labelled."""
    return np.array([Confusion(matrix.shape[0], matrix).miou() for matrix in counts])


def recall_by_bin(counts: Counts) -> Floats:
    """Returns the fraction of each bin's pixels that is correct, f64 `bins`; NaN where there are none."""
    return ratio(np.trace(counts[:, :, :-1], axis1=1, axis2=2), counts.sum(axis=(1, 2)))


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


def component_sizes(label: Pixels) -> tuple[Pixels, Counts]:
    """Returns the size class of each pixel's component (8 neighbours), u8 `H W`, 255 where ignored, and their counts.

    A size class is a place in COMPONENT_PX; counts: components of each, int64 `sizes`.
    """
    out, counts = np.full(label.shape, IGNORE, np.uint8), np.zeros(len(COMPONENT_PX), np.int64)
    for index in np.unique(label[label != IGNORE]):
        is_class = label == index
        number, component = cv2.connectedComponents(is_class.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
        pixels = np.bincount(component.ravel(), minlength=number)[1:]  # 0 is the rest of the image
        size = np.searchsorted(COMPONENT_PX, pixels, side="right") - 1
        out[is_class] = size[component[is_class] - 1]
        counts += np.bincount(size, minlength=len(counts))
    return out, counts


def ring_of(hw: tuple[int, ...]) -> npt.NDArray[np.intp]:
    """Returns each pixel's ring `H W`: NUM_RINGS rings of equal width, from the centre (0) to the corners."""
    row, column = (np.abs(np.arange(length) - (length - 1) / 2) / (length / 2) for length in hw)
    distance = np.hypot(row[:, None], column[None]) / np.sqrt(2)  # 0 at the centre, less than 1 in a corner
    return np.asarray((distance * NUM_RINGS).astype(np.intp))
