"""Every fault of a data set at once, and what its labels hold."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from segnl.core import IGNORE
from segnl.core.errors import DataError
from segnl.data.base import SegmentationData, require_same_size
from segnl.data.reading import FileError, exif_orientation, read_image, read_label


@dataclass(frozen=True)
class Report:
    """What `check` found.

    notes: what is no fault but worth a look (an EXIF orientation, which is not applied).
    pixels_per_class, void_pixels: over the labels that could be read.
    """

    faults: list[FileError]
    notes: list[FileError]
    num_pairs: int
    pixels_per_class: dict[str, int]
    void_pixels: int

    @property
    def void_fraction(self) -> float | None:
        """Of all pixels of the labels; None where no label could be read."""
        total = self.void_pixels + sum(self.pixels_per_class.values())
        return self.void_pixels / total if total else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "faults": [_plain(fault) for fault in self.faults],
            "notes": [_plain(note) for note in self.notes],
            "num_pairs": self.num_pairs,
            "pixels_per_class": self.pixels_per_class,
            "void_fraction": self.void_fraction,
        }


def check(data: SegmentationData, *, on_pair: Callable[[], object] | None = None) -> Report:
    """Decodes every image and every label of `data`, made with allow_unmatched=True; raises for none of their faults.

    on_pair: called after each pair. Uses data.workers threads (PIL decodes outside Python's lock).
    """
    faults = list(data.unmatched)
    notes: list[FileError] = []
    counts = np.zeros(IGNORE + 1, np.int64)
    with ThreadPoolExecutor(max(1, data.cfg.workers)) as pool:
        for found in pool.map(partial(_examine, data), range(len(data))):
            faults += found.faults
            notes += found.notes
            counts += found.counts
            if on_pair is not None:
                on_pair()
    return Report(
        faults,
        notes,
        num_pairs=len(data),
        pixels_per_class={name: int(counts[i]) for i, name in enumerate(data.table.names)},
        void_pixels=int(counts[IGNORE]),
    )


def merged(reports: Sequence[Report]) -> Report:
    """Of several splits of one data set as one."""
    names = reports[0].pixels_per_class
    return Report(
        [fault for report in reports for fault in report.faults],
        [note for report in reports for note in report.notes],
        num_pairs=sum(report.num_pairs for report in reports),
        pixels_per_class={name: sum(report.pixels_per_class[name] for report in reports) for name in names},
        void_pixels=sum(report.void_pixels for report in reports),
    )


@dataclass(frozen=True)
class _Found:
    faults: list[FileError]
    notes: list[FileError]
    counts: "np.ndarray[Any, np.dtype[np.int64]]"


def _examine(data: SegmentationData, i: int) -> _Found:
    """Pair `i`: the image's fault and the label's, each by itself, then what only the two together can have."""
    image_path, label_path = data.image_path(i), data.label_path(i)
    found = _Found([], [], np.zeros(IGNORE + 1, np.int64))
    image = raw = None
    try:
        image = read_image(image_path)
    except FileError as fault:
        found.faults.append(fault)
    try:
        raw = read_label(label_path)
        found.counts[:] = np.bincount(data.table.to_train(raw, str(label_path)).ravel(), minlength=IGNORE + 1)
    except FileError as fault:
        found.faults.append(fault)
    except DataError as err:
        found.faults.append(FileError(label_path, "id", str(err).removeprefix(f"{label_path}: ")))
    try:
        if image is not None and raw is not None:
            require_same_size(image_path, image.shape[:2], label_path, raw.shape)
    except FileError as fault:
        found.faults.append(fault)
    orientation = exif_orientation(image_path) if image is not None else 1
    if orientation != 1:
        detail = f"EXIF orientation {orientation} is not applied; the label must fit the pixels as stored"
        found.notes.append(FileError(image_path, "orientation", detail))
    return found


def _plain(fault: FileError) -> dict[str, str]:
    return {"file": str(fault.file), "kind": fault.kind, "detail": fault.detail}
