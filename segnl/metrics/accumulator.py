"""Pixel counts of one evaluation: the confusion matrix, the same image by image, and the strata. Imports no torch.

All counts are integers, so the sum over shards is exact.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segnl.core.arrays import Counts, Floats, Pixels
from segnl.core.errors import DataError
from segnl.core.files import NPZ_FAULTS, open_regular, write_atomic
from segnl.core.npz import npz_bytes, read_arrays
from segnl.metrics.confusion import Confusion, LabelMap, ratio
from segnl.metrics.strata import Strata


class PerImage:
    """Confusion matrices `k k+1` by sample id, stored sparse: most cells are 0. The data of significance tests."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._cells: dict[str, tuple[Counts, Counts]] = {}  # sample id: flat indices of nonzero cells, their pixels

    def __len__(self) -> int:
        return len(self._cells)

    @property
    def sample_ids(self) -> list[str]:
        """Sorted, so that results do not depend on the order in which ranks finish."""
        return sorted(self._cells)

    def add(self, sample_id: str, counts: Counts) -> None:
        """Adds `Confusion.counts(pred, label)` of one image. Raises ValueError for a wrong shape or a known id."""
        if counts.shape != (self.num_classes, self.num_classes + 1):
            raise ValueError(f"counts: shape {counts.shape}; expected {(self.num_classes, self.num_classes + 1)}")
        if sample_id in self._cells:
            raise ValueError(f"sample {sample_id!r}: counted twice; expected each image once")
        index = np.flatnonzero(counts)
        self._cells[sample_id] = index, counts.ravel()[index].astype(np.int64)

    def merge(self, other: "PerImage") -> None:
        """Adds another rank's images, of as many classes. Raises ValueError when an image is in both."""
        in_both = self._cells.keys() & other._cells.keys()
        if in_both:
            raise ValueError(f"sample {min(in_both)!r}: counted by two ranks; expected each image once")
        self._cells |= other._cells

    def matrix(self, sample_id: str) -> Counts:
        """Returns one image's matrix, int64 `k k+1`."""
        matrix = np.zeros((self.num_classes, self.num_classes + 1), np.int64)
        index, pixels = self._cells[sample_id]
        matrix.flat[index] = pixels
        return matrix

    def total(self) -> Confusion:
        """Returns the confusion matrix of all images."""
        total = Confusion(self.num_classes)
        for sample_id in self._cells:
            total.matrix += self.matrix(sample_id)
        return total

    def overlaps(self) -> tuple[Counts, Counts]:
        """Returns intersection and union of each class in each image, int64 `n k` each, in the order of `sample_ids`.

        The sums over a subset of the images give the subset's IoUs, as a bootstrap needs them.
        """
        confusions = [Confusion(self.num_classes, self.matrix(sample_id)) for sample_id in self.sample_ids]
        overlaps = [(confusion.intersection(), confusion.union()) for confusion in confusions]
        intersection, union = np.array(overlaps, np.int64).reshape(-1, 2, self.num_classes).swapaxes(0, 1)
        return intersection, union

    def pixel_acc(self) -> Floats:
        """Returns the correct fraction of each image's labelled pixels, f64 `n`; NaN for an image without any."""
        matrices = [self.matrix(sample_id) for sample_id in self.sample_ids]
        return ratio([matrix.diagonal().sum() for matrix in matrices], [matrix.sum() for matrix in matrices])

    def worst(self, num: int) -> list[tuple[str, float]]:
        """Returns the `num` images with the lowest pixel accuracy, and that accuracy; none without labelled pixels."""
        scored = [(sample_id, float(acc)) for sample_id, acc in zip(self.sample_ids, self.pixel_acc(), strict=True)]
        return sorted((pair for pair in scored if np.isfinite(pair[1])), key=lambda pair: (pair[1], pair[0]))[:num]

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Returns the arrays of per_image.npz.

        stems: sorted sample ids. num_classes. image, truth, predicted, pixels: of each nonzero cell its image, label,
        prediction and number of pixels.
        """
        none = np.zeros(0, np.int64)
        cells = [self._cells[sample_id] for sample_id in self.sample_ids]
        index = np.concatenate([none, *(index for index, _ in cells)])
        return {
            "stems": np.array(self.sample_ids, dtype=np.str_),
            "num_classes": np.array(self.num_classes),
            "image": np.repeat(np.arange(len(cells), dtype=np.int32), [len(index) for index, _ in cells]),
            "truth": (index // (self.num_classes + 1)).astype(np.uint8),
            "predicted": (index % (self.num_classes + 1)).astype(np.uint8),
            "pixels": np.concatenate([none, *(pixels for _, pixels in cells)]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "PerImage":
        """Inverts `to_arrays`. Raises KeyError for a missing array, ValueError for counts that no image can have."""
        per_image = cls(int(arrays["num_classes"]))
        sample_ids = arrays["stems"].tolist()
        bounds = {"image": len(sample_ids), "truth": per_image.num_classes, "predicted": per_image.num_classes + 1}
        bounds["pixels"] = np.iinfo(np.int64).max
        for name, bound in bounds.items():
            values = arrays[name]
            if values.dtype.kind not in "iu" or values.shape != arrays["image"].shape or values.ndim != 1:
                raise ValueError(f"{name}: {values.dtype} of shape {values.shape}; expected a row of integers")
            if values.size and not 0 <= int(values.min()) <= int(values.max()) < bound:
                raise ValueError(f"{name}: {values.min()}..{values.max()}; expected 0..{bound - 1}")
        if len(set(sample_ids)) != len(sample_ids):
            raise ValueError("stems: a sample stands twice")
        index = arrays["truth"].astype(np.int64) * (per_image.num_classes + 1) + arrays["predicted"]
        for i, sample_id in enumerate(sample_ids):
            of_image = arrays["image"] == i
            per_image._cells[sample_id] = index[of_image], arrays["pixels"][of_image].astype(np.int64)
        return per_image

    def save(self, path: Path) -> None:
        """Writes per_image.npz atomically."""
        write_atomic(path, npz_bytes(self.to_arrays()))


def load_per_image(path: Path) -> PerImage:
    """Reads what `PerImage.save` wrote. Raises DataError for any other file."""
    try:
        with open_regular(path) as content:
            return PerImage.from_arrays(read_arrays(content))
    except NPZ_FAULTS as err:
        raise DataError(f"{path}: cannot be read as per-image counts ({err}); evaluate again") from err


class Accumulator:
    """Counts of one evaluation.

    strata: None unless asked for, since counting them takes several times as long as decoding and counting an image.
    """

    def __init__(self, num_classes: int, *, with_strata: bool = False) -> None:
        self.confusion = Confusion(num_classes)
        self.per_image = PerImage(num_classes)
        self.strata = Strata(num_classes) if with_strata else None

    def add(self, sample_id: str, pred: LabelMap, label: Pixels) -> None:
        """Counts one image, train ids `H W`, 0..k-1 or 255.

        Raises ValueError as `Confusion.update` does, and for a sample id seen before.
        """
        counts = self.confusion.counts(pred, label)
        self.per_image.add(sample_id, counts)
        self.confusion.matrix += counts
        if self.strata is not None:
            ids = pred if isinstance(pred, np.ndarray) else pred.cpu().numpy()
            self.strata.update(ids.astype(np.uint8, copy=False), label)  # `counts` has checked the range

    def merge(self, other: "Accumulator") -> None:
        """Adds another shard's counts.

        Raises ValueError when the number of classes differs, an image is in both, or only one of the two has strata.
        """
        if (self.strata is None) != (other.strata is None):
            raise ValueError("merge: strata in one of the two only; expected both or none")
        self.confusion.merge(other.confusion)
        self.per_image.merge(other.per_image)
        if self.strata is not None and other.strata is not None:
            self.strata.merge(other.strata)
