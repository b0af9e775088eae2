"""Result of an evaluation: scores, counts and masks of a run on one split."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segnl.core.arrays import Counts, Floats, Pixels
from segnl.core.config import JSONDict
from segnl.core.result_cache import ResultCache
from segnl.evaluation.masks import read_ids
from segnl.labels.table import ClassTable
from segnl.metrics.accumulator import PerImage
from segnl.metrics.confusion import Confusion, ratio
from segnl.metrics.strata import boundary_iou, pair_accuracy


@dataclass(frozen=True)
class Evaluation:
    """Scores, counts and masks of a run on one split; all counts are in the order of sample_ids.

    folder: RUN/eval/SPLIT-MODE. masks: folder of SAMPLE_ID.png. key: everything that the result depends on.
    cache: stores the result, and results computed from it.
    boundary: int64 `images 3 k`, intersection, target and prediction pixels of the classes' boundaries alone.
    pairs: int64 `images pairs 2`, correct and all pixels of ambiguous objects; None if the data set has none.
    is_from_cache: the network did not have to run.
    """

    folder: Path
    masks: Path
    cache: ResultCache
    key: JSONDict
    metrics: JSONDict
    sample_ids: tuple[str, ...]
    per_image: PerImage
    boundary: Counts
    pairs: Counts | None
    is_from_cache: bool = False

    @functools.cached_property
    def _counts(self) -> Counts:
        """Intersection, target and prediction pixels of each class, int64 `images 3 k`."""
        num_classes = self.per_image.num_classes
        confusions = (Confusion(num_classes, self.per_image.matrix(sample_id)) for sample_id in self.sample_ids)
        return np.array([(image.intersection(), image.target(), image.prediction()) for image in confusions])

    @property
    def intersection(self) -> Counts:
        """Correctly predicted pixels of each class, int64 `images k`."""
        return self._counts[:, 0]

    @property
    def target(self) -> Counts:
        """Labelled pixels of each class, int64 `images k`."""
        return self._counts[:, 1]

    @property
    def prediction(self) -> Counts:
        """Labelled pixels predicted as each class, int64 `images k`."""
        return self._counts[:, 2]

    @property
    def union(self) -> Counts:
        """Pixels in label or prediction of each class, int64 `images k`."""
        return self.target + self.prediction - self.intersection

    @property
    def confusion(self) -> Confusion:
        """Confusion matrix over all images."""
        return self.per_image.total()

    def mask(self, i: int, table: ClassTable) -> Pixels:
        """Returns the prediction for image `i`, train ids u8 `H W`."""
        return read_ids(self.masks, self.sample_ids[i], table)

    def error_rate(self) -> Floats:
        """Returns the misclassified fraction of each image's labelled pixels, f64 `images`; NaN without any."""
        return 1 - ratio(self.intersection.sum(axis=1), self.target.sum(axis=1))

    def iou(self) -> Floats:
        """Returns the IoU over the whole split, f64 `k`; NaN for a class in neither label nor prediction."""
        return ratio(self.intersection.sum(axis=0), self.union.sum(axis=0))

    def boundary_iou(self) -> Floats:
        """Returns the boundaries' IoU over the whole split, f64 `k`; NaN for a class in neither label nor prediction.

        A boundary is the pixels of a class within 0.5 % of the image's diagonal from its edge.
        """
        return boundary_iou(self.boundary.sum(axis=0))

    def pair_accuracy(self) -> Floats | None:
        """Returns the correctly predicted fraction of each ambiguous pair's pixels, f64 `pairs`; None without pairs."""
        return None if self.pairs is None else pair_accuracy(self.pairs.sum(axis=0))

    def most_frequent_class(self) -> tuple[int, float]:
        """Returns the class with most labelled pixels, and the mIoU of predicting it everywhere."""
        target = self.target.sum(axis=0)
        return int(target.argmax()), float(ratio(target.max(), target.sum()) / max(1, int((target > 0).sum())))
