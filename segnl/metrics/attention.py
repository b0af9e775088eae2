"""Measures of attention weights: how wide, how far, and on which class.

Weights are `q n`: a row for each query, over n key positions. Signed weights and gradients are measured by their
absolute values. A row whose weights are all 0 has NaN.
"""

import numpy as np
import numpy.typing as npt

from segnl.core import IGNORE
from segnl.core.arrays import Floats, Pixels


def shares(weights: npt.NDArray[np.floating]) -> Floats:
    """Returns absolute weights divided by their sum, f64 `q n`."""
    absolute = np.abs(weights).astype(np.float64)
    total = absolute.sum(axis=1, keepdims=True)
    share: Floats = np.divide(absolute, total, out=np.full_like(absolute, np.nan), where=total > 0)
    return share


def entropy_bits(share: Floats) -> Floats:
    """Returns the entropy of each row, f64 `q`: from 0 (one position) to log2 n (all positions alike)."""
    logarithm = np.log2(share, out=np.zeros_like(share), where=share > 0)
    bits: Floats = -(share * logarithm).sum(axis=1) + 0.0
    return bits


def distances(queries: Floats, keys: Floats) -> Floats:
    """Returns the distances between points `q 2` and `n 2` (row, column in pixels), f64 `q n`."""
    rows, columns = (queries[:, None, axis] - keys[None, :, axis] for axis in (0, 1))
    distance: Floats = np.hypot(rows, columns)
    return distance


def class_fractions(label: Pixels, num_classes: int, hw: tuple[int, int]) -> Floats:
    """Returns the fraction of each cell's pixels that has each class, f64 `k n`, for a grid h w over the label.

    label: train ids u8 `H W`. A pixel belongs to the cell that holds its centre; a cell that holds none (a grid finer
    than the label) has the class of the nearest pixel.
    """
    rows, columns = (cell_of((np.arange(size) + 0.5) / size, hw[axis]) for axis, size in enumerate(label.shape))
    cell = rows[:, None] * hw[1] + columns
    n = hw[0] * hw[1]
    area = np.bincount(cell.ravel(), minlength=n)
    counts = np.stack([np.bincount(cell[label == k], minlength=n) for k in range(num_classes)])
    fractions = counts / np.maximum(area, 1)
    if not area.all():
        nearest = label_at(label, centres(hw))
        fractions[:, area == 0] = nearest[area == 0] == np.arange(num_classes)[:, None]
    return fractions


def centres(hw: tuple[int, int]) -> Floats:
    """Returns the centres of the cells of a grid h w, row by row, as fractions of height and width, f64 `n 2`."""
    rows, columns = ((np.arange(length) + 0.5) / length for length in hw)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def cell_of(fraction: Floats, length: int) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    """Returns the cell of a grid with `length` cells that holds each point, given as fractions of the axis."""
    return np.minimum((np.asarray(fraction) * length).astype(np.intp), length - 1)


def label_at(label: Pixels, points: Floats) -> Pixels:
    """Returns the train ids at points `q 2`, fractions of height and width."""
    return label[cell_of(points[:, 0], label.shape[0]), cell_of(points[:, 1], label.shape[1])]


def own_class_share(share: Floats, fractions: Floats, classes: Pixels) -> Floats:
    """Returns the part of each row that lies on pixels of the query's own class, f64 `q`; NaN for ignored queries.

    share: `q n`. fractions: from `class_fractions`, `k n`. classes: of the queries, u8 `q`.
    """
    is_labelled = classes != IGNORE
    own = fractions[np.where(is_labelled, classes, 0)]  # q n
    return np.where(is_labelled, (share * own).sum(axis=1), np.nan)


def mass_within(share: Floats, distance: Floats, limits: Floats) -> Floats:
    """Returns the part of each row within each distance, f64 `q limits`; distance: `q n`."""
    return np.stack([np.where(distance <= limit, share, 0).sum(axis=1) for limit in limits], axis=1)
