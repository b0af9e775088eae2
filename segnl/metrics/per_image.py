"""The confusion matrix of every image, kept sparse: the raw material of significance tests."""

import io
from pathlib import Path

import numpy as np

from segnl.core.arrays import Counts, Floats
from segnl.core.errors import DataError
from segnl.core.files import NPZ_FAULTS, write_atomic
from segnl.metrics.confusion import Confusion, ratio

FIELDS = ("sample_ids", "num_classes", "image", "truth", "predicted", "pixels")


class PerImage:
    """Matrices `k k+1` by stem. Most of their cells are empty, so only the others are stored."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._cells: dict[str, tuple[Counts, Counts]] = {}  # stem: flat places in the matrix, pixels there

    def __len__(self) -> int:
        return len(self._cells)

    @property
    def sample_ids(self) -> list[str]:
        """Sorted, so that the order in which ranks finish leaves no trace."""
        return sorted(self._cells)

    def add(self, sample_id: str, counts: Counts) -> None:
        """counts: `Confusion.counts(pred, label)` of one image. Raises ValueError for another shape or a stem twice."""
        if counts.shape != (self.num_classes, self.num_classes + 1):
            raise ValueError(f"counts: shape {counts.shape}; expected {(self.num_classes, self.num_classes + 1)}")
        if sample_id in self._cells:
            raise ValueError(f"stem {sample_id!r}: counted twice; expected each image once")
        places = np.flatnonzero(counts)
        self._cells[sample_id] = places, counts.ravel()[places].astype(np.int64)

    def merge(self, other: "PerImage") -> None:
        """Adds another rank's images. Raises ValueError when an image is in both, or the classes differ."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"merge: {other.num_classes} classes into {self.num_classes}; expected the same")
        twice = self._cells.keys() & other._cells.keys()
        if twice:
            raise ValueError(f"stem {min(twice)!r}: counted by two ranks; expected each image once")
        self._cells |= other._cells

    def matrix(self, sample_id: str) -> Counts:
        """One image's matrix, int64 `k k+1`."""
        matrix = np.zeros(self.num_classes * (self.num_classes + 1), np.int64)
        places, pixels = self._cells[sample_id]
        matrix[places] = pixels
        return matrix.reshape(self.num_classes, self.num_classes + 1)

    def total(self) -> Confusion:
        """All images together."""
        total = Confusion(self.num_classes)
        for sample_id in self._cells:
            total.matrix += self.matrix(sample_id)
        return total

    def overlaps(self) -> tuple[Counts, Counts]:
        """Intersection and union of each class in each image, int64 `num_images k` each, in the order of `stems`.

        The sums over any choice of images give that choice's IoUs: what a bootstrap draws from.
        """
        counted = [Confusion(self.num_classes, self.matrix(sample_id)) for sample_id in self.sample_ids]
        empty = np.zeros((0, self.num_classes), np.int64)
        right = np.stack([one.right() for one in counted]) if counted else empty
        union = np.stack([one.true() + one.predicted() for one in counted]) - right if counted else empty
        return right, union

    def pixel_acc(self) -> Floats:
        """Share of each image's labelled pixels that is right, f64 `num_images`; NaN where it has none."""
        matrices = [self.matrix(sample_id) for sample_id in self.sample_ids]
        return ratio([matrix.diagonal().sum() for matrix in matrices], [matrix.sum() for matrix in matrices])

    def worst(self, num: int) -> list[tuple[str, float]]:
        """The `num` images with the lowest share of right pixels, and that share; none without labels."""
        scored = [(sample_id, float(share)) for sample_id, share in zip(self.sample_ids, self.pixel_acc(), strict=True)]
        return sorted((pair for pair in scored if np.isfinite(pair[1])), key=lambda pair: (pair[1], pair[0]))[:num]

    def save(self, path: Path) -> None:
        """Writes per_image.npz, whole or not at all."""
        cells = [self._cells[sample_id] for sample_id in self.sample_ids]
        places = np.concatenate([places for places, _ in cells]) if cells else np.zeros(0, np.int64)
        file = io.BytesIO()
        np.savez_compressed(
            file,
            sample_ids=np.array(self.sample_ids, dtype=np.str_),
            num_classes=np.array(self.num_classes),
            image=np.repeat(np.arange(len(cells), dtype=np.int32), [len(places) for places, _ in cells]),
            truth=(places // (self.num_classes + 1)).astype(np.uint8),
            predicted=(places % (self.num_classes + 1)).astype(np.uint8),
            pixels=np.concatenate([pixels for _, pixels in cells]) if cells else np.zeros(0, np.int64),
        )
        write_atomic(path, file.getvalue())


def load_per_image(path: Path) -> PerImage:
    """Reads what `save` wrote. Raises DataError for any other file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {name: file[name] for name in FIELDS}
    except NPZ_FAULTS as err:
        raise DataError(f"{path}: cannot be read as per-image counts ({err}); evaluate again") from err
    result = PerImage(int(data["num_classes"]))
    places = data["truth"].astype(np.int64) * (result.num_classes + 1) + data["predicted"]
    for index, sample_id in enumerate(data["sample_ids"].tolist()):
        own = data["image"] == index
        result._cells[sample_id] = places[own], data["pixels"][own].astype(np.int64)
    return result
