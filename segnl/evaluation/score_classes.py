"""Classes of scored masks: the class table, its colours, and the meaning of predicted ids. Imports no torch."""

from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np

from segnl.core import IGNORE
from segnl.core.arrays import Pixels
from segnl.core.config import read_file
from segnl.core.errors import ConfigError, DataError
from segnl.data.annotations.yolo import YAML_SUFFIXES, class_names
from segnl.labels import cityscapes
from segnl.labels.table import MAX_CLASSES, ClassTable, Row, distinct_colour, read_tsv

PredictionIds = Literal["file", "train"]
IDS_IN_WORDS: dict[PredictionIds, str] = {"file": "the ids of the class table", "train": "train ids (0, 1, 2 ...)"}
NO_CLASS = 255
UNKNOWN = 254
THRESHOLD_HINT = "threshold the scores of binary masks, or masks that JPEG has changed, so that they hold the two ids"
_ADE20K = Path(__file__).parent.parent / "data" / "datasets" / "ade20k.tsv"
_ADE20K_HINTS = {
    "ade20k": "for labels of 0..149 and 255 (reduce_zero_label) take --classes ade20k-train",
    "ade20k-train": "for labels of 0..150, as downloaded, take --classes ade20k",
}
BUILT_IN = (*cityscapes.TABLES, *_ADE20K_HINTS)


def class_table(classes: str, ignore_ids: Collection[int], prediction_ids: PredictionIds = "file") -> ClassTable:
    """Returns the classes of a file or a built-in table, with these ids ignored besides 255.

    255 is not ignored where the table has it as a class, nor by `cityscapes` and `ade20k`: only labels of train ids
    hold it.

    Raises ConfigError for an id that is a class, DataError for a file that is no class table or has one class, and for
    train ids with a data.yaml that is out of order.
    """
    title, hint = classes, _ADE20K_HINTS.get(classes, "")
    if classes in cityscapes.TABLES:
        own = cityscapes.TABLES[classes]
        rows = [*map(Row, own.file_ids, own.names, own.palette.tolist())]
        ignored, hint = {*own.ignore_ids}, own.unknown_hint
    elif classes == "ade20k-train":
        rows, ignored = [row._replace(file_id=i) for i, row in enumerate(read_tsv(_ADE20K))], {IGNORE}
    elif classes == "ade20k":
        rows, ignored = read_tsv(_ADE20K), {0}
    else:
        title, rows = Path(classes).name, _rows_of_file(Path(classes), prediction_ids)
        ignored = {IGNORE} - {row.file_id for row in rows}
        hint = "add --ignore {value} if it stands for unlabelled pixels, or correct the class table"
        if len(rows) == 2:
            hint = f"{THRESHOLD_HINT}; {hint}"
    name_of = {row.file_id: row.name for row in rows}
    for file_id in ignore_ids:
        if file_id in name_of:
            raise ConfigError(
                f"--ignore {file_id}: is the class '{name_of[file_id]}' of {title}; leave out the option, or give a "
                "table without this class: then pixels labelled so are not scored"
            )
        if not 0 <= file_id <= IGNORE:
            raise ConfigError(f"--ignore {file_id}: expected an id within 0..{IGNORE}")
    return ClassTable(
        [row.name for row in rows],
        [row.colour for row in rows],
        file_ids=[*name_of],
        ignore_ids={*ignored, *ignore_ids},
        title=title,
        unknown_hint=hint,
    )


def _rows_of_file(path: Path, prediction_ids: PredictionIds) -> list[Row]:
    """Returns the classes of a class table or data.yaml, at least two."""
    if not path.exists():
        raise DataError(f"{path}: no such file; expected a class table, a data.yaml, or one of {', '.join(BUILT_IN)}")
    is_yaml = path.suffix.lower() in YAML_SUFFIXES
    rows = _rows_of_yaml(path, prediction_ids) if is_yaml else read_tsv(path, needs_colours=False)
    if len(rows) == 1:
        raise DataError(
            f"{path}: names 1 class, '{rows[0].name}'; a single class is never wrong, as all other pixels are ignored: "
            "name the background as a class too, and add --foreground 255 if the masks hold 0 and 255"
        )
    return rows


def _rows_of_yaml(path: Path, prediction_ids: PredictionIds) -> list[Row]:
    """Returns the classes of ultralytics' data.yaml, which names no colours."""
    settings = read_file(path)
    names = class_names(path, settings)
    if max(names) > IGNORE or len(names) > MAX_CLASSES:
        raise DataError(
            f"{path}: names {len(names)} classes, ids up to {max(names)}; expected at most "
            f"{MAX_CLASSES}, up to {IGNORE}"
        )
    if settings.get("nc", len(names)) != len(names):
        raise DataError(f"{path}: nc: holds {settings['nc']}, but names has {len(names)} classes; correct one of them")
    if prediction_ids == "train" and isinstance(settings["names"], dict) and [*map(int, settings["names"])] != [*names]:
        raise DataError(
            f"{path}: names: the numbers are out of order, and --prediction-ids train takes the classes by number, not "
            "by line; sort them, or use a class table (index, name) whose lines are in the order of the predictions"
        )
    return [Row(own, name, distinct_colour(number)) for number, (own, name) in enumerate(names.items(), start=1)]


def colour_table(classes: str, table: ClassTable) -> ClassTable:
    """Returns the classes by the colours of the table; black is ignored unless it is a class's colour.

    Raises DataError for a table without colours, or with one colour of two classes.
    """
    colours = [red << 16 | green << 8 | blue for red, green, blue in table.palette.tolist()]
    by_colour = {0: IGNORE}
    if classes in cityscapes.TABLES:  # unscored classes have colours too
        labels = [label for label in cityscapes.LABELS if label.id >= 0 and label.train_id == IGNORE]
        by_colour |= {red << 16 | green << 8 | blue: IGNORE for red, green, blue in (own.colour for own in labels)}
    elif classes not in BUILT_IN:
        if Path(classes).suffix.lower() in YAML_SUFFIXES:
            raise DataError(f"{classes}: names no colours; use a class table: index, name, r, g, b")
        read_tsv(Path(classes))  # which says that it has no colours
    for name, own in zip(table.names, colours, strict=True):
        if (first := table.names[colours.index(own)]) != name:
            raise DataError(f"{table.title}: '{first}' and '{name}' have one colour; save masks of class ids instead")
    return ClassTable(
        table.names,
        table.palette,
        label_values=by_colour | {colour: train_id for train_id, colour in enumerate(colours)},
        reads_colours=True,
        title=table.title,
        unknown_hint="correct the colours of the mask or of the class table, or save class ids",
    )


def class_ids(table: ClassTable, prediction_ids: PredictionIds) -> tuple[int, ...]:
    """Returns the id of each class in files of predictions."""
    return table.file_ids if prediction_ids == "file" else tuple(range(table.num_classes))


def prediction_lut(table: ClassTable, prediction_ids: PredictionIds) -> Pixels:
    """Returns the train id of each predicted id, u8 `256`: 255 for no class, 254 for an id without a meaning."""
    lut = np.full(256, UNKNOWN, np.uint8)
    own_ids = class_ids(table, prediction_ids)
    lut[[own for own in table.ignore_ids if own not in own_ids]] = NO_CLASS
    if IGNORE not in own_ids:
        lut[IGNORE] = NO_CLASS
    lut[list(own_ids)] = np.arange(table.num_classes)
    return lut
