"""Checks of a whole data set: every file error at once, and the pixels of each class."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segnl.core.errors import DataError
from segnl.data.annotations.labels import require_current
from segnl.data.base import SegmentationData, require_same_size
from segnl.data.file_error import FileError
from segnl.data.label_counts import LabelCounts, doubts
from segnl.data.reading import exif_orientation, palette_colours


@dataclass(frozen=True)
class DataReport:
    """Result of `check`.

    notes: remarks that are no errors: an EXIF orientation, which is not applied; classes without a pixel.
    pixels_per_class, ignored_pixels: over the labels that could be read.
    """

    errors: list[FileError]
    notes: list[FileError]
    num_pairs: int
    pixels_per_class: dict[str, int]
    ignored_pixels: int

    @property
    def ignored_fraction(self) -> float | None:
        """Of all pixels of the labels; None where no label could be read."""
        total = self.ignored_pixels + sum(self.pixels_per_class.values())
        return self.ignored_pixels / total if total else None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {
            "faults": [error.to_dict() for error in self.errors],
            "notes": [note.to_dict() for note in self.notes],
            "num_pairs": self.num_pairs,
            "pixels_per_class": self.pixels_per_class,
            "void_fraction": self.ignored_fraction,
        }


def check(data: SegmentationData, *, on_pair: Callable[[], object] | None = None) -> DataReport:
    """Decodes every image and label of `data`, opened with allow_unmatched=True, and collects their errors.

    on_pair: called after each pair. Uses data.workers threads (PIL decodes outside Python's lock).
    """
    errors = list(data.unmatched)
    notes: list[FileError] = []
    try:
        require_current(data.label_folder())
    except DataError as err:
        errors.append(FileError(data.label_folder(), "stale", str(err).partition(": ")[2]))
    counts = LabelCounts.none(data.table.num_classes)
    with ThreadPoolExecutor(max(1, data.cfg.workers)) as pool:
        for pair_errors, pair_notes, pair_counts in pool.map(partial(_check_pair, data), range(len(data))):
            errors += pair_errors
            notes += pair_notes
            counts += pair_counts
            if on_pair is not None:
                on_pair()
    for sentence in doubts(data.table, counts):
        note = FileError(data.label_folder(), "classes", sentence)
        (notes if counts.num_present else errors).append(note)
    return DataReport(
        errors,
        notes,
        num_pairs=len(data),
        pixels_per_class={name: int(counts.by_class[i]) for i, name in enumerate(data.table.names)},
        ignored_pixels=counts.ignored,
    )


def merge_reports(reports: Sequence[DataReport]) -> DataReport:
    """Merges the reports of several splits of one data set."""
    return DataReport(
        [error for report in reports for error in report.errors],
        [note for report in reports for note in report.notes],
        num_pairs=sum(report.num_pairs for report in reports),
        pixels_per_class={
            name: sum(report.pixels_per_class[name] for report in reports) for name in reports[0].pixels_per_class
        },
        ignored_pixels=sum(report.ignored_pixels for report in reports),
    )


def _check_pair(data: SegmentationData, i: int) -> tuple[list[FileError], list[FileError], LabelCounts]:
    """Returns errors, notes and pixel counts of pair `i`: image and label each, then the two against each other."""
    image_path, label_path = data.image_path(i), data.label_path(i)
    errors: list[FileError] = []
    notes: list[FileError] = []
    counts = LabelCounts.none(data.table.num_classes)
    image = raw = None
    try:
        image = data.read_frames(i)
        if (orientation := exif_orientation(image_path)) != 1:
            detail = f"EXIF orientation {orientation} is not applied; the label must fit the pixels as stored"
            notes.append(FileError(image_path, "orientation", detail))
    except FileError as err:
        errors.append(err)
    try:
        raw = data.read_ids(i)
        counts = LabelCounts.of(data.table, raw, str(label_path))
        _require_palette(data, label_path)
    except FileError as err:
        errors.append(err)
    except DataError as err:
        errors.append(FileError(label_path, "id", str(err).removeprefix(f"{label_path}: ")))
    try:
        if image is not None and raw is not None:
            require_same_size(image_path, image.shape[:2], label_path, raw.shape[:2])
    except FileError as err:
        errors.append(err)
    return errors, notes, counts


def _require_palette(data: SegmentationData, label_path: Path) -> None:
    """Raises FileError where a label's palette gives the colours of the class table to other ids."""
    table = data.table
    if table.has_label_map or len(np.unique(table.palette, axis=0)) < table.num_classes:
        return
    classes = {tuple(map(int, table.palette[i])): (table.file_ids[i], table.names[i]) for i in range(table.num_classes)}
    held = palette_colours(label_path, max_pixels=data.cfg.max_pixels)
    held = {index: colour for index, colour in held.items() if index not in table.ignore_ids}
    for index, colour in held.items():
        if {*held.values()} <= classes.keys() and classes[colour][0] != index:
            own_id, name = classes[colour]
            detail = (
                f"its palette gives id {index} the colour {colour} of '{name}', which is {own_id} in the class table"
            )
            raise FileError(label_path, "classes", f"{detail}: read colours with data.label_map, or correct the table")
