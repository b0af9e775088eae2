"""All that one evaluation counts: integers, which shards of it add up exactly. Imports no torch."""

import numpy as np

from segnl.core.arrays import Pixels
from segnl.metrics.confusion import Confusion, Map
from segnl.metrics.per_image import PerImage
from segnl.metrics.strata import Strata


class Accumulator:
    """The confusion matrix, the same image by image, and where the errors are.

    strata: None unless asked for: it takes several times what decoding and counting an image take.
    """

    def __init__(self, num_classes: int, *, with_strata: bool = False) -> None:
        self.confusion = Confusion(num_classes)
        self.per_image = PerImage(num_classes)
        self.strata = Strata(num_classes) if with_strata else None

    def add(self, sample_id: str, pred: Map, label: Pixels) -> None:
        """Counts one image, train ids `H W`, 0..k-1 or 255. Raises ValueError as `Confusion.update` does, or for a
        stem that is there already.
        """
        counts = self.confusion.counts(pred, label)
        self.per_image.add(sample_id, counts)
        self.confusion.matrix += counts
        if self.strata is not None:
            ids = pred if isinstance(pred, np.ndarray) else pred.cpu().numpy()
            self.strata.update(ids.astype(np.uint8, copy=False), label)  # in range, as has been checked

    def merge(self, other: "Accumulator") -> None:
        """Adds another shard's counts. Raises ValueError when it has other classes or an image of this one's, or only
        one of the two has strata.
        """
        if (self.strata is None) != (other.strata is None):
            raise ValueError("merge: strata in one of the two only; expected both or none")
        self.confusion.merge(other.confusion)
        self.per_image.merge(other.per_image)
        if self.strata is not None and other.strata is not None:
            self.strata.merge(other.strata)
