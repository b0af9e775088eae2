"""Class tables: ids in label files, train ids, names, colours. Imports no torch."""

import functools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from segnl.core import IGNORE
from segnl.core.archives import text_lines
from segnl.core.arrays import Ids, Mask, Pixels
from segnl.core.errors import ConfigError, DataError

_UNKNOWN = 254  # marks an id that no label may hold in the lookup table
MAX_CLASSES = 253
"""Of a table: 254 and 255 mark other pixels."""


class ClassTable:
    """Classes of a data set, and the mapping between ids in label files and train ids 0..k-1.

    names: one for each class, in train order.  palette: u8 `k 3`, RGB.
    file_ids: the id of each class in a label file; by default the train id itself.
    ignore_ids: file ids that are ignored.  void_id: id that `to_mask` writes for an ignored pixel.
    label_values: all values that label files may hold, with their train ids, or 255 for ignored: ids, or with
    `reads_colours` colours as 0xRRGGBB. By default the file ids and ignore_ids; where given, these are only written.
    ignores_rest: every other value of a label file is ignored instead of an error.
    title: the data set's name in messages.  unknown_hint: advice in the message about an unknown id,
    `{value}` in it.
    """

    def __init__(
        self,
        names: Sequence[str],
        palette: npt.ArrayLike,
        *,
        file_ids: Sequence[int] | None = None,
        ignore_ids: Collection[int] = (IGNORE,),
        void_id: int = IGNORE,
        label_values: Mapping[int, int] | None = None,
        reads_colours: bool = False,
        ignores_rest: bool = False,
        title: str = "the class table",
        unknown_hint: str = "correct the label",
    ) -> None:
        self.names = tuple(names)
        self.num_classes = len(self.names)
        self.file_ids = tuple(range(len(self.names)) if file_ids is None else file_ids)
        self.ignore_ids = tuple(sorted(set(ignore_ids)))
        self.void_id = void_id
        self.title = title
        self.unknown_hint = unknown_hint
        self.palette: Pixels = np.array(palette, dtype=np.uint8).reshape(-1, 3)
        self.palette.setflags(write=False)
        self._check()
        self.reads_colours = reads_colours
        self.ignores_rest = ignores_rest
        self.has_label_map = label_values is not None
        written = dict.fromkeys(self.ignore_ids, IGNORE) | {file_id: i for i, file_id in enumerate(self.file_ids)}
        self.label_values = dict(label_values) if label_values is not None else written
        self._train_of_mask = np.full(256, _UNKNOWN, np.uint8)
        self._train_of_mask[[void_id, *written]] = [IGNORE, *written.values()]
        self._mask_of = np.full(256, void_id, np.uint8)
        self._mask_of[: self.num_classes] = self.file_ids
        self._colour_of = np.zeros((256, 3), np.uint8)  # ignored pixels stay black
        self._colour_of[: self.num_classes] = self.palette

    def _check(self) -> None:
        count = self.num_classes
        if not 1 <= count <= MAX_CLASSES:
            raise ValueError(f"a class table of {count} classes; 1 to {MAX_CLASSES} fit 8-bit labels")
        if len(self.palette) != count or len(self.file_ids) != count:
            raise ValueError(
                f"{count} names, {len(self.palette)} colours, {len(self.file_ids)} file ids; counts must agree"
            )
        if len(set(self.names)) != count or len(set(self.file_ids)) != count:
            raise ValueError("a name or a file id occurs twice in the class table")
        if odd := next((name for name in self.names if not is_name(name)), None):
            raise ValueError(f"a class is called {odd!r:.60}; expected {NAME}")
        known = {*self.file_ids, *self.ignore_ids}
        if not all(0 <= file_id <= 255 for file_id in known):
            raise ValueError(f"file ids {min(known)}..{max(known)}; 8-bit labels hold 0..255")
        if set(self.file_ids) & set(self.ignore_ids):
            raise ValueError(f"ids {sorted(set(self.file_ids) & set(self.ignore_ids))} are a class and ignored at once")

    @property
    def max_id(self) -> int:
        """The largest id that a label file may hold, at least 255."""
        return 255 if self.reads_colours else max([255, *self.label_values])

    @functools.cached_property
    def _train_of(self) -> Pixels:
        """Train ids by the value in a label file; 16 MiB for colours."""
        size = 2**24 if self.reads_colours else 2**16 if self.max_id > 255 else 256
        train_of = np.full(size, IGNORE if self.ignores_rest else _UNKNOWN, np.uint8)
        train_of[list(self.label_values)] = list(self.label_values.values())
        return train_of

    def to_train(self, raw: Ids, where: str) -> Pixels:
        """Maps a file's ids to train ids u8 `H W`: 0..k-1, or 255 for ignored.

        raw: ids `H W` of any integer type; with reads_colours RGB u8 `H W 3`.

        Raises DataError naming `where`, the first pixel with an unknown id, and the known ids.
        """
        num_axes = 3 if self.reads_colours else 2
        if raw.ndim != num_axes or not np.issubdtype(raw.dtype, np.integer):
            shape = "`H W 3`" if self.reads_colours else "`H W`"
            raise ValueError(f"label of shape {raw.shape} and type {raw.dtype}; expected integers {shape}")
        if self.reads_colours:
            red, green, blue = (raw[..., i].astype(np.int32) for i in range(3))
            raw = red << 16 | green << 8 | blue
        size = len(self._train_of)
        if raw.dtype != np.uint8 and not self.reads_colours:
            self._refuse(raw, (raw < 0) | (raw >= size), where)
        # OpenCV looks bytes up in a third of the time.
        is_bytes = raw.dtype == np.uint8 and size == 256 and raw.size > 0  # LUT of nothing is None
        train: Pixels = np.asarray(cv2.LUT(raw, self._train_of)) if is_bytes else self._train_of.take(raw)
        self._refuse(raw, train == _UNKNOWN, where)
        return train

    def _refuse(self, raw: Ids, bad: Mask, where: str) -> None:
        if not bad.any():
            return
        row, column = (int(index) for index in np.unravel_index(int(bad.argmax()), bad.shape))
        value = int(raw[row, column])
        if self.reads_colours:
            held, known = f"the colour {colour_text(value)}", f"{len(self.label_values)} others"
        else:
            is_class = {own: train != IGNORE for own, train in self.label_values.items()}
            ids, ignored = ([own for own in is_class if is_class[own] == kind] for kind in (True, False))
            held, known = str(value), f"ids {ids_text(ids, ignored)}"
        hint = (not self.reads_colours and scale_hint(raw)) or self.unknown_hint.replace("{value}", str(value))
        raise DataError(
            f"{where}: pixel (row {row}, column {column}) holds {held}, but {self.title} has {known}; {hint}"
        )

    def from_mask(self, ids: Ids, where: str) -> Pixels:
        """Maps ids `H W` that `to_mask` wrote back to train ids u8 `H W`; raises DataError as `to_train` does."""
        is_wide = (ids < 0) | (ids > 255) if ids.dtype != np.uint8 else np.zeros(ids.shape, np.bool_)
        train: Pixels = self._train_of_mask.take(np.where(is_wide, 0, ids))
        bad = is_wide | (train == _UNKNOWN)
        if bad.any():
            row, column = (int(index) for index in np.unravel_index(int(bad.argmax()), bad.shape))
            known = ranges({*self.file_ids, *self.ignore_ids, self.void_id})
            raise DataError(
                f"{where}: pixel (row {row}, column {column}) holds {ids[row, column]}, but masks of {self.title} hold "
                f"{known}; write it again"
            )
        return train

    def to_mask(self, train: Pixels) -> Pixels:
        """Maps train ids u8 `H W` to the ids of the data set's own files and of its benchmark server."""
        return self._mask_of.take(self._checked(train))

    def colour(self, train: Pixels) -> Pixels:
        """Paints train ids u8 `H W` as RGB u8 `H W 3`; ignored pixels are black."""
        return self._colour_of[self._checked(train)]

    def _checked(self, train: Pixels) -> Pixels:
        if train.dtype != np.uint8:
            raise ValueError(f"train ids of type {train.dtype}; expected uint8")
        wrong = (train >= self.num_classes) & (train != IGNORE)
        if wrong.any():
            raise ValueError(f"train id {train[wrong][0]}; {self.title} has 0..{self.num_classes - 1} and {IGNORE}")
        return train

    @classmethod
    def from_tsv(cls, path: Path, ignore_ids: Iterable[int] = ()) -> "ClassTable":
        """Reads classes from a tab-separated file with the columns index, name, r, g, b.

        index: the id in a label file. It may begin anywhere and have gaps; train ids follow the order of lines.
        255 is ignored unless a line names it.
        Raises DataError for a file that is not such a table, or has one class; ConfigError for an ignore id that is a
        class.
        """
        rows = read_tsv(path)
        if len(rows) == 1:
            raise DataError(f"{path}: names 1 class, '{rows[0].name}'; {ONE_CLASS}")
        ignored = {*ignore_ids} | ({IGNORE} - {row.file_id for row in rows})
        for row in rows:
            if row.file_id in ignored:
                raise ConfigError(f"data.ignore_ids: {row.file_id} is the class '{row.name}' of {path}; remove one")
        if not all(0 <= file_id <= 255 for file_id in ignored):
            raise ConfigError(f"data.ignore_ids: holds {sorted(ignored - {IGNORE})}; expected ids within 0..255")
        return cls(
            [row.name for row in rows],
            [row.colour for row in rows],
            file_ids=[row.file_id for row in rows],
            ignore_ids=ignored,
            void_id=free_id([row.file_id for row in rows]),
            title=path.parent.name or str(path),
            unknown_hint=f"correct the label, or name the id in {path.name} or in data.ignore_ids",
        )


ONE_CLASS = "a network of one class is always right: name the background, or what else there is, as a class too"
"""Reason and remedy for a table of a single class."""


def free_id(file_ids: Iterable[int]) -> int:
    """Returns the id that masks hold for an ignored pixel: 255, or the largest that no class has."""
    used = set(file_ids)
    return next(file_id for file_id in reversed(range(256)) if file_id not in used)


NAME = "a name of 1 to 200 characters in one line"


def is_name(name: str) -> bool:
    """Returns whether a class may be called so; halves of UTF-16 pairs are no text that can be drawn."""
    return re.fullmatch(r"[^\n\ud800-\udfff]{1,200}", name) is not None


def plain_name(name: str) -> str:
    """Returns a class's name as it is compared: without capitals, `_`, `-` and repeated spaces."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def means_no_class(name: str) -> bool:
    """Returns True for the usual names of pixels that are ignored."""
    return plain_name(name) in ("void", "unlabeled", "unlabelled", "ignore", "ignored")


def colour_text(value: int) -> str:
    """Writes 0xRRGGBB as text such as `#ff00aa (255, 0, 170)`."""
    return f"#{value:06x} ({value >> 16}, {value >> 8 & 255}, {value & 255})"


def are_grey_levels(values: Sequence[int]) -> bool:
    """Tells whether sorted ids look like grey levels, such as 0, 255, or 0, 127, 255."""
    step = values[1] if len(values) > 2 or [*values] == [0, IGNORE] else 0
    return step >= 10 and all(abs(value - i * step) <= i for i, value in enumerate(values))


def scale_hint(ids: Ids) -> str:
    """Returns advice if the ids of a label look like grey levels; else an empty text."""
    values: list[int] = np.unique(ids[ids >= 0]).tolist()
    if not are_grey_levels(values):
        return ""
    text = ", ".join(map(str, values[:6])) + (" ..." if len(values) > 6 else "")
    return f"the label's values {text} look like grey levels: use them as index in classes.tsv or in data.label_map"


def ranges(ids: Iterable[int]) -> str:
    """Writes ids as text such as `0..10, 255`."""
    runs: list[list[int]] = []
    for number in sorted(ids):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def ids_text(ids: Collection[int], ignored: Collection[int]) -> str:
    """Writes the ids of classes and those that are ignored, such as `0..10 (and 255, ignored)`."""
    return ranges(ids) + (f" (and {ranges(ignored)}, ignored)" if ignored else "")


def distinct_colour(number: int) -> tuple[int, int, int]:
    """Returns the colour of class `number` where nothing else names one; 0..255 all differ, and 0 is black.

    Source: the colour map of the PASCAL VOC devkit, which spreads the bits of the number over the three channels.
    """
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


_COLUMNS = ["index", "name", "r", "g", "b"]


class Row(NamedTuple):
    """A line of a class table."""

    file_id: int
    name: str
    colour: tuple[int, int, int]


def read_tsv(path: Path, *, needs_colours: bool = True) -> list[Row]:
    """Reads a class table with the columns index, name, r, g, b.

    needs_colours: False: a table of the columns index, name will do; its classes get distinct colours.
    Raises DataError naming the first bad line.
    """
    lines = text_lines(path, "a class table: index, name, r, g, b")
    columns = lines[0].rstrip().split("\t") if lines else []
    if columns != _COLUMNS and (needs_colours or columns != _COLUMNS[:2]):
        short = "" if needs_colours else " or 'index name'"
        raise DataError(f"{path}: line 1 must be 'index name r g b'{short}, separated by tabs; it is {lines[:1]}")
    rows: list[Row] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        where = f"{path}: line {number} is {line[:200]!r}"
        cells = [cell.strip() for cell in line.split("\t")]
        index, name, *colour = cells if len(cells) == len(columns) else [""] * 2
        if not is_name(name) or not all(re.fullmatch("[0-9]{1,9}", cell) for cell in (index, *colour)):
            raise DataError(f"{where}; expected a number, {NAME}, three numbers, with tabs between")
        red, green, blue = map(int, colour) if colour else distinct_colour(len(rows) + 1)
        row = Row(int(index), name, (red, green, blue))
        if row.file_id > 255 or max(row.colour) > 255:
            raise DataError(f"{where}; the index and the colours must be within 0..255")
        if any(row.file_id == earlier.file_id or name == earlier.name for earlier in rows):
            raise DataError(f"{path}: line {number} repeats an index or a name: {line!r}; use each once")
        rows.append(row)
    if not 1 <= len(rows) <= MAX_CLASSES:
        raise DataError(f"{path}: names {len(rows)} classes; expected 1 to {MAX_CLASSES}")
    return rows
