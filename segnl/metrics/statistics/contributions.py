"""Contribution of every image to the data-set IoU, so that a ratio of sums can be treated as a mean."""

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from segnl.core.arrays import Floats
from segnl.metrics.confusion import ratio

MAX_SHARE = 0.98
"""Largest share of a class's union that an image may have: without the only image of a class, its IoU is undefined."""


def group_sums(counts: npt.ArrayLike, groups: Sequence[Hashable]) -> npt.NDArray[np.int64]:
    """Adds up the counts of each group's images: `n k` -> `g k`, the groups in the order of their first image.

    Images of one group (frames of a drive) resemble each other; their sums are the smallest independent units.
    """
    counts = np.asarray(counts)
    if len(groups) != len(counts):
        raise ValueError(f"groups: {len(groups)} for {len(counts)} images; expected one for each image")
    rows = {group: row for row, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(rows), *counts.shape[1:]), np.int64)
    np.add.at(sums, [rows[group] for group in groups], counts)
    return sums


def class_contributions(intersection: npt.ArrayLike, union: npt.ArrayLike) -> Floats:
    """Returns each image's contribution to each class's IoU: counts `... n k` -> f64 `... n k`.

    The mean over n is the IoU; the variance of that mean is the jackknife's. With I and U the sums over the images and
    h the image's share of U, a contribution is  I/U + (n - 1) (intersection - I/U union) / U / (1 - h),  the
    jackknife's pseudo-value n I/U - (n - 1) IoU_without_the_image, less their common bias (Tukey 1958; Efron and Stein
    1981). h is at most MAX_SHARE. NaN for a class in neither label nor prediction of any image.
    """
    intersection, union = np.asarray(intersection, np.float64), np.asarray(union, np.float64)
    total = union.sum(axis=-2, keepdims=True)
    iou = ratio(intersection.sum(axis=-2, keepdims=True), total)
    share = np.minimum(ratio(union, total), MAX_SHARE)
    deviation = (union.shape[-2] - 1) * ratio(intersection - iou * union, total) / (1 - share)
    return np.asarray(iou + deviation - deviation.mean(axis=-2, keepdims=True))


def mean_over_classes(by_class: Floats) -> Floats:
    """Returns each image's contribution to the mIoU: `... n k` -> f64 `... n`.

    The mean over n is the mIoU. Classes in neither label nor prediction are left out, as in `Confusion.miou`; NaN when
    there are no others.
    """
    num_defined = np.isfinite(by_class[..., :1, :]).sum(axis=-1)  # a class is undefined in all images or in none
    return np.asarray(np.nansum(by_class, axis=-1) * ratio(1, num_defined))
