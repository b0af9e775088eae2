"""Pixels of labels by class, and what they say about a class table that does not fit its labels."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from segnl.core import IGNORE
from segnl.core.arrays import Counts, Ids
from segnl.core.errors import DataError
from segnl.core.log import log
from segnl.data.base import SegmentationData
from segnl.labels.table import ClassTable

MAX_LABELS_AT_START = 64
"""Labels that a training reads before it begins: Cityscapes' decode in a second."""


@dataclass(frozen=True)
class LabelCounts:
    """Numbers of pixels in some labels.

    by_class: int64 `k`. by_ignored_id: int64 `256`, ignored pixels by the id in their file, those above 255 and colours
    under 0. num_labels: labels that were counted.
    """

    by_class: Counts
    by_ignored_id: Counts
    num_labels: int = 1

    @classmethod
    def none(cls, num_classes: int) -> "LabelCounts":
        """Returns the counts of no label."""
        return cls(np.zeros(num_classes, np.int64), np.zeros(256, np.int64), 0)

    @classmethod
    def of(cls, table: ClassTable, raw: Ids, where: str) -> "LabelCounts":
        """Counts one label. raw: its ids as stored. Raises DataError as `ClassTable.to_train` does."""
        train = table.to_train(raw, where)
        by_train_id = np.bincount(train.ravel(), minlength=IGNORE + 1)
        by_ignored_id = np.zeros(256, np.int64)
        if by_train_id[IGNORE]:
            ids = raw[train == IGNORE] if raw.ndim == 2 else np.zeros(int(by_train_id[IGNORE]), np.uint8)
            by_ignored_id = np.bincount(np.where(ids > 255, 0, ids), minlength=256)
        return cls(by_train_id[: table.num_classes], by_ignored_id)

    def __add__(self, other: "LabelCounts") -> "LabelCounts":
        return LabelCounts(
            self.by_class + other.by_class,
            self.by_ignored_id + other.by_ignored_id,
            self.num_labels + other.num_labels,
        )

    @property
    def ignored(self) -> int:
        """The number of ignored pixels."""
        return int(self.by_ignored_id.sum())

    @property
    def num_present(self) -> int:
        """The number of classes that have a pixel."""
        return int((self.by_class > 0).sum())


def count_labels(data: SegmentationData, indices: Iterable[int], *, skips_errors: bool = False) -> LabelCounts:
    """Counts labels in data.workers threads.

    skips_errors: leaves out labels that cannot be read; otherwise raises DataError for the first.
    """
    total = LabelCounts.none(data.table.num_classes)
    with ThreadPoolExecutor(max(1, data.cfg.workers)) as pool:
        for counts in pool.map(partial(_count, data, skips_errors=skips_errors), indices):
            total += counts
    return total


def _count(data: SegmentationData, i: int, *, skips_errors: bool) -> LabelCounts:
    try:
        return LabelCounts.of(data.table, data.read_ids(i), str(data.label_path(i)))
    except DataError:
        if not skips_errors:
            raise
        return LabelCounts.none(data.table.num_classes)


def class_pixels(data: SegmentationData) -> Counts:
    """Counts the pixels of each class over all labels, int64 `k`. Raises DataError for a label that cannot be read."""
    return count_labels(data, range(len(data))).by_class


def doubts(table: ClassTable, counts: LabelCounts) -> list[str]:
    """Returns what is doubtful about labels with these counts, a sentence each, the gravest first.

    That is: no pixel of any class, pixels of one class alone, and classes without a pixel.
    """
    if counts.num_labels == 0:
        return []
    missing = [name for name, pixels in zip(table.names, counts.by_class, strict=True) if not pixels]
    labels = "the label" if counts.num_labels == 1 else f"the {counts.num_labels} labels"
    if counts.num_present == 0:
        return [f"no pixel of {labels} is of a class{_ignored_text(table, counts, missing)}"]
    if not missing:
        return []
    if counts.num_present == 1:
        (present,) = set(table.names) - set(missing)
        return [f"all pixels of {labels} that are not ignored are '{present}'{_ignored_text(table, counts, missing)}"]
    names = ", ".join(f"'{name}'" for name in missing[:5]) + (" ..." if len(missing) > 5 else "")
    return [f"{len(missing)} of {table.num_classes} classes have no pixel in {labels}: {names}"]


def _ignored_text(table: ClassTable, counts: LabelCounts, missing: list[str]) -> str:
    """Writes which id most ignored pixels hold, and how it becomes a class."""
    if not counts.ignored:
        return "; label the others too"
    file_id = int(counts.by_ignored_id.argmax())
    share = counts.by_ignored_id[file_id] / (counts.ignored + counts.by_class.sum())
    if table.reads_colours:
        return f", and {share:.1%} are ignored; name their colours in data.label_map"
    where = "in data.label_map" if table.has_label_map else "as index in classes.tsv, or set data.label_map"
    return f", and {share:.1%} hold {file_id}, which is ignored; if that is '{missing[0]}', give {file_id} {where}"


def require_labelled(data: SegmentationData) -> None:
    """Logs doubts about a training set's labels, from a part of them if there are many; all if that part is doubtful.

    Raises DataError where all labels together have no class or only one, from which nothing can be learned.
    """
    num_read = min(len(data), MAX_LABELS_AT_START)
    indices = np.linspace(0, len(data) - 1, num_read).round().astype(int)
    # Training itself names a label that cannot be read, with its epoch.
    counts = count_labels(data, indices.tolist(), skips_errors=True)
    if counts.num_present < 2 and num_read < len(data):
        counts = count_labels(data, range(len(data)), skips_errors=True)
    if counts.num_labels < len(data):  # rare classes may be in those that were not read
        return
    for sentence in doubts(data.table, counts):
        if counts.num_present < 2:
            raise DataError(f"{data.label_folder()}: {sentence}")
        log.warning("%s: %s", data.label_folder(), sentence)
