"""Pixel counts of masks by image and class: all that the definitions of mIoU depend on. Imports no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from segnl.core.arrays import Counts, Floats
from segnl.metrics.confusion import Confusion, mean_of_defined, ratio


@dataclass(frozen=True)
class ImageCounts:
    """Pixel counts of one image, or of several where a field has a first axis `n`; int64.

    intersection: labelled and predicted as the class. target: labelled as it. prediction: predicted as it where a label
    is. unassigned: labelled as it and predicted as no class. on_ignored: predicted as it where the label is ignored.
    """

    intersection: Counts
    target: Counts
    prediction: Counts
    unassigned: Counts
    on_ignored: Counts

    @classmethod
    def of(cls, matrix: Counts) -> "ImageCounts":
        """Counts one image. matrix: `k+1 k+1`, label by prediction; the last row: ignored, column: no class."""
        k = len(matrix) - 1
        labelled = matrix[:k]
        return cls(
            intersection=labelled.diagonal().copy(),
            target=labelled.sum(axis=1),
            prediction=labelled[:, :k].sum(axis=0),
            unassigned=labelled[:, k].copy(),
            on_ignored=matrix[k, :k].copy(),
        )

    @classmethod
    def stacked(cls, images: Sequence["ImageCounts"]) -> "ImageCounts":
        """Returns the counts of several images, `n k` each."""
        return cls(**{name.name: np.stack([getattr(image, name.name) for image in images]) for name in fields(cls)})

    @property
    def union(self) -> Counts:
        """Pixels of each class in label or prediction, where a label is."""
        return self.target + self.prediction - self.intersection

    @property
    def accuracy(self) -> Floats:
        """Correct fraction of each image's labelled pixels, f64 `n`; NaN without any."""
        return ratio(self.intersection.sum(axis=-1), self.target.sum(axis=-1))

    @property
    def miou(self) -> Floats:
        """Mean IoU of each image over the classes in it, f64 `n`; NaN without labelled pixels."""
        return np.array([mean_of_defined(of_image) for of_image in ratio(self.intersection, self.union)])


@dataclass(frozen=True)
class MaskCounts:
    """Pixel counts of scored masks. total: over all images, `k+1 k+1`. images: `n k` each."""

    total: Counts
    images: ImageCounts

    @classmethod
    def of(cls, matrices: Iterable[Counts]) -> "MaskCounts":
        """Adds up images. matrices: `k+1 k+1` each, at least one."""
        kept = [np.asarray(matrix, np.int64) for matrix in matrices]
        return cls(np.sum(kept, axis=0), ImageCounts.stacked([ImageCounts.of(matrix) for matrix in kept]))

    @property
    def num_classes(self) -> int:
        return len(self.total) - 1

    @property
    def confusion(self) -> Confusion:
        """The matrix `k k+1` of the labelled pixels."""
        return Confusion(self.num_classes, self.total[:-1])

    def has_unassigned(self, *, also_on_ignored: bool = False) -> bool:
        """Tells whether a labelled pixel, or also an ignored one, is predicted as no class."""
        return bool(self.total[: None if also_on_ignored else -1, -1].any())
