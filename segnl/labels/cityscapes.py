"""Cityscapes: its 34 label ids and the licence plate, the 19 scored classes, their categories.

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from segnl.core import IGNORE
from segnl.labels.table import ClassTable


class Label(NamedTuple):
    """A line of the benchmark's label definition; `train_id` is 255 for an id that is not scored."""

    name: str
    id: int
    train_id: int
    category: str
    category_id: int
    has_instances: bool
    ignore_in_eval: bool
    colour: tuple[int, int, int]


def _read_labels() -> Iterator[Label]:
    for line in Path(__file__).with_suffix(".tsv").read_text(encoding="utf-8").splitlines()[1:]:
        name, label_id, train_id, category, *numbers = line.split("\t")
        category_id, has_instances, ignore_in_eval, red, green, blue = map(int, numbers)
        flags = bool(has_instances), bool(ignore_in_eval)
        yield Label(name, int(label_id), int(train_id), category, category_id, *flags, (red, green, blue))


LABELS = tuple(_read_labels())
"""By id. The licence plate (-1) comes last and does not occur in label files."""

SCORED = tuple(sorted((label for label in LABELS if label.train_id != IGNORE), key=lambda label: label.train_id))
"""The 19 classes by train id."""

CATEGORIES = tuple(dict.fromkeys(label.category for label in SCORED))
"""The seven scored categories, in the benchmark's order."""

TABLE = ClassTable(
    [label.name for label in SCORED],
    [label.colour for label in SCORED],
    file_ids=[label.id for label in SCORED],
    ignore_ids=[label.id for label in LABELS if label.train_id == IGNORE and label.id >= 0],
    void_id=0,
    title="cityscapes",
    # An unknown id such as 255 means that somebody wrote train ids into a file named labelIds.
    unknown_hint="expected labelIds as downloaded, not train ids; segnl score takes --classes cityscapes-train",
)

TRAIN_TABLE = ClassTable(TABLE.names, TABLE.palette, title="cityscapes-train")
"""Of label files that hold train ids (labelTrainIds)."""

TABLES = {"cityscapes": TABLE, "cityscapes-train": TRAIN_TABLE}
