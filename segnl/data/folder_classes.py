"""Finds the classes of a folder's labels, and names for them."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from segnl.core import IGNORE
from segnl.core.archives import is_file, text_lines
from segnl.core.errors import DataError
from segnl.core.find_files import find_files
from segnl.data.file_error import FileError
from segnl.data.folder_plan import FolderPlan
from segnl.data.mask_files import listed
from segnl.data.reading import palette_colours, read_colours, read_label
from segnl.labels.table import (
    MAX_CLASSES,
    NAME,
    ONE_CLASS,
    are_grey_levels,
    distinct_colour,
    is_name,
    means_no_class,
    read_tsv,
)

COLOUR_TABLES = {"class_dict.csv": ",", "labelmap.txt": ":"}
"""Files of names and colours, with their separator."""
VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
VOC_SAMPLE = re.compile(r"20\d\d_\d{6}")
MAX_LABELS = 5000
"""Labels that are looked at; of more, that many spread evenly."""
MAX_COLOURS = 64
"""More colours than these in labels are no classes, but the traces of JPEG or of smooth edges."""


def plan_classes(plan: FolderPlan, root: Path, labels: Sequence[Path], class_names: Mapping[int, str]) -> None:
    """Finds the kind of the labels, and writes the rows of classes.tsv, or a label map for colours.

    class_names: by id, as the folder's own format gives them.
    """
    labels = labels[:: -(-len(labels) // MAX_LABELS)]
    palette = _palette(labels)
    is_coloured = read_label(labels[0], max_id=65_535, allow_colours=True).ndim == 3
    if palette is None:
        plan.notes.append("labels: palettes differ from file to file, so their colours are the classes")
        is_coloured = True
    if is_file(root / "classes.tsv"):
        _use_table(plan, root, labels, is_coloured=is_coloured)
    elif is_coloured:
        _plan_colours(plan, root, labels)
    else:
        _plan_ids(plan, root, labels, palette or {}, class_names)


def _plan_colours(plan: FolderPlan, root: Path, labels: Sequence[Path]) -> None:
    """Makes each colour a class of data.label_map, in the order of the file that names them."""
    known = _named_colours(root)
    colours = _colours(labels, root)
    is_grey = all(len({*colour}) == 1 for colour in colours)
    unnamed = [f"class_{colour[0]}" if is_grey else f"colour_{bytes(colour).hex()}" for colour in colours]
    if not is_grey and not any(colours[0]):
        unnamed[0] = "background"
    if len(colours) == 2 and not any(colours[0]):
        unnamed = ["background", "foreground"]
    names = [known.get(colour, name) for colour, name in zip(colours, unnamed, strict=True)]
    is_own = [names.count(name) == 1 or means_no_class(name) for name in names]
    names = [name if own else f"{name}_{i}" for i, (name, own) in enumerate(zip(names, is_own, strict=True))]
    ignored = _ignored(plan, names, "data.label_map")
    rank = {colour: number for number, colour in enumerate(known)}
    rows_of_file = sorted(zip(names, colours, strict=True), key=lambda row: rank.get(row[1], len(rank)))
    label_map: dict[str, list[str]] = {}
    for name, colour in rows_of_file:
        own = "ignore" if name in ignored else "ignored" if name == "ignore" else name
        label_map.setdefault(own, []).append(f"#{bytes(colour).hex()}")
    plan.data["label_map"] = label_map
    names = [name for name in label_map if name != "ignore"]
    plan.notes.append(f"labels: RGB, {len(colours)} colours")
    plan.notes.append(f"classes: {listed(names, limit=6)}; rename and join them in data.label_map")


def _plan_ids(
    plan: FolderPlan,
    root: Path,
    labels: Sequence[Path],
    palette: Mapping[int, tuple[int, int, int]],
    class_names: Mapping[int, str],
) -> None:
    """Makes each id that occurs a class, apart from 255 and from those whose name means no class."""
    ids_of = _ids(labels)
    ids = sorted(set().union(*ids_of))
    is_binary = len(ids) == 2 and ids[1] == IGNORE
    is_scale = are_grey_levels(ids)
    if IGNORE in ids and not is_binary and not is_scale:
        if len([file_id for file_id in ids if 192 <= file_id < IGNORE]) > 2:
            raise DataError(
                f"{root}: the labels hold {len(ids)} values up to 255; expected one for each class. Were they saved as "
                "JPEG, or resized with smooth edges? Otherwise name the classes in classes.tsv (index, name, r, g, b)"
            )
        ids.remove(IGNORE)
        without = sum(own == {0, IGNORE} for own in ids_of)
        where = f" ({without} of {len(labels)} labels hold 0 and 255 only)" if without else ""
        plan.notes.append(f"ignored: 255{where}; if it is a class, add it to classes.tsv")
    if len(ids) < 2:
        raise DataError(f"{root}: the labels hold {ids or 'nothing'} only; expected two classes at least")
    if ids[-1] > IGNORE:
        _require_class_count(root, len(ids))
        plan.data["label_map"] = {f"class_{i}": [i] for i in ids}
        plan.notes.append(f"labels: 16-bit ids {ids[0]}..{ids[-1]}; rename and join the {len(ids)} in data.label_map")
        return
    colours = {file_id: palette.get(file_id, distinct_colour(file_id)) for file_id in ids}
    names = _names_of_ids(plan, root, labels, ids, palette, class_names)
    ignored = _ignored(plan, names, "data.ignore_ids")
    if ignored:
        plan.data["ignore_ids"] = [file_id for file_id, name in zip(ids, names, strict=True) if name in ignored]
    kind = "grey levels, a class each" if is_binary or is_scale else "class ids"
    plan.notes.append(f"labels: {kind}: {listed([*map(str, ids)], limit=12)}")
    rows = [(file_id, name, colours[file_id]) for file_id, name in zip(ids, names, strict=True)]
    name_classes(plan, [row for row in rows if row[1] not in ignored])


def _names_of_ids(
    plan: FolderPlan,
    root: Path,
    labels: Sequence[Path],
    ids: Sequence[int],
    palette: Mapping[int, tuple[int, int, int]],
    class_names: Mapping[int, str],
) -> list[str]:
    """Returns a name for each id: of the folder's format, of its palette's colours, of VOC, or of a file of names."""
    known = _named_colours(root)
    by_colour = {i: known[palette[i]] for i in ids if palette.get(i) in known}
    for named in (class_names, by_colour):
        if set(ids) <= named.keys():
            return [named[file_id] for file_id in ids]
    is_voc = ids[-1] < len(VOC_NAMES) and all(VOC_SAMPLE.fullmatch(path.stem) for path in labels)
    if is_voc and all(palette.get(i, distinct_colour(i)) == distinct_colour(i) for i in ids):
        return [VOC_NAMES[file_id] for file_id in ids]
    if names := _names_in_files(plan, root, ids, [*known.values()]):
        return names
    is_binary = list(ids) in ([0, 1], [ids[0], IGNORE])
    return ["background", "foreground"] if is_binary else [f"class_{file_id}" for file_id in ids]


def _ignored(plan: FolderPlan, names: Sequence[str], key: str) -> list[str]:
    """Returns the names that mean no class, such as void, where two classes are left without them."""
    ignored = [*filter(means_no_class, names)]
    if not ignored or len(names) < len(ignored) + 2:
        return []
    plan.notes.append(f"ignored: {', '.join(map(repr, ignored))} ({key})")
    return ignored


def name_classes(plan: FolderPlan, rows: list[tuple[int, str, tuple[int, int, int]]]) -> None:
    """Puts the classes into classes.tsv; for an archive, into which nothing is written, into the recipe."""
    rows = [(file_id, " ".join(name.split()), colour) for file_id, name, colour in rows]
    names = [name for _, name, _ in rows]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{plan.home}: two classes are called '{doubled}', but for spaces; give each its own name")
    if odd := [name for name in names if not is_name(name)]:
        raise DataError(f"{plan.home}: a class is called {odd[0]!r:.60}; give it {NAME}")
    _require_class_count(plan.home, len(names))
    if plan.is_beside_archive:
        plan.data["label_map"] = {name: [file_id] for file_id, name, _ in rows}
    else:
        plan.rows = rows
    where = "data.label_map" if plan.is_beside_archive else "classes.tsv"
    plan.notes.append(f"classes: {listed(names, limit=6)}; rename them in {where}")


def _require_class_count(root: Path, count: int) -> None:
    if not 2 <= count <= MAX_CLASSES:
        advice = ONE_CLASS if count < 2 else "join some, or ignore them"
        raise DataError(f"{root}: has {count} classes; expected 2 to {MAX_CLASSES}: {advice}")


def _use_table(plan: FolderPlan, root: Path, labels: Sequence[Path], *, is_coloured: bool) -> None:
    """Takes the classes of the folder's own classes.tsv; ids and colours that it does not name are ignored."""
    rows = read_tsv(root / "classes.tsv")
    plan.notes.append("classes: classes.tsv, which was there")
    if is_coloured:
        plan.data["label_map"] = {row.name: [f"#{bytes(row.colour).hex()}"] for row in rows}
        unknown = sorted({*_colours(labels, root)} - {row.colour for row in rows})
        if unknown:
            plan.data["label_map"]["ignore"] = "rest"
        names = [f"#{bytes(colour).hex()}" for colour in unknown]
    else:
        unknown_ids = sorted(set().union(*_ids(labels)) - {row.file_id for row in rows} - {IGNORE})
        if unknown_ids:
            plan.data["ignore_ids"] = unknown_ids
        names = [str(file_id) for file_id in unknown_ids]
    if names:
        text = listed(names, limit=12)
        plan.notes.append(f"ignored: {text}, which classes.tsv does not name; add what should be a class")


def _palette(labels: Sequence[Path]) -> dict[int, tuple[int, int, int]] | None:
    """Returns the colour of each index that labels hold; None where their palettes differ about one."""
    palette: dict[int, tuple[int, int, int]] = {}
    for path in labels:
        for index, colour in palette_colours(path).items():
            if palette.setdefault(index, colour) != colour:
                return None
    return palette


def _ids(labels: Sequence[Path]) -> list[set[int]]:
    """Returns the ids of each label."""
    return [set(np.unique(read_label(path, max_id=65_535)).tolist()) for path in labels]


def _colours(labels: Sequence[Path], root: Path) -> list[tuple[int, int, int]]:
    colours: set[int] = set()
    for path in labels:
        pixels = read_colours(path).astype(np.uint32)
        colours |= set(np.unique(pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]).tolist())
        if len(colours) > MAX_COLOURS:
            raise DataError(
                f"{path}: with the labels before it, more than {MAX_COLOURS} colours; expected one for each class. "
                "Were the labels saved as JPEG, or with smooth edges?"
            )
    if len(colours) < 2:
        raise DataError(f"{root}: the labels hold one colour only; expected two classes at least")
    return [(c >> 16, c >> 8 & 255, c & 255) for c in sorted(colours)]


def _named_colours(root: Path) -> dict[tuple[int, int, int], str]:
    """Reads names of colours from class_dict.csv (name, r, g, b) or labelmap.txt (name:r,g,b::), where there is one."""
    out: dict[tuple[int, int, int], str] = {}
    for name, separator in COLOUR_TABLES.items():
        path = root / name
        try:
            rows = list(csv.reader(_lines(path), delimiter=separator))
        except csv.Error as err:
            raise FileError(path, "format", f"{err}; expected a colour and its class a line, quotes closed") from err
        for row in rows:
            cells = [row[0], *row[1].split(",")] if separator == ":" and len(row) > 1 else row
            numbers = [cell.strip() for cell in cells[1:4]]
            if len(numbers) == 3 and all(number.isdecimal() and len(number) < 4 for number in numbers):
                if not cells[0].strip():
                    raise FileError(path, "format", f"{','.join(row)!r}: a class has an empty name; give it one")
                red, green, blue = map(int, numbers)
                out[red, green, blue] = cells[0].strip()
    return out


def _names_in_files(plan: FolderPlan, root: Path, ids: Sequence[int], of_colours: list[str]) -> list[str]:
    """Returns a name for each id from a file of names or a table of colours; nothing where none fits."""
    named = _of_id2label(plan, root) or _of_roboflow(root)
    names = [named[file_id] for file_id in ids if file_id in named]
    if len({*names}) == len(ids):
        return names
    return _of_lines(plan, root, ids) or _of_rows(plan, root, ids, of_colours)


def _of_id2label(plan: FolderPlan, root: Path) -> dict[int, str]:
    """Reads id2label.json."""
    try:
        pairs = json.loads("\n".join(_lines(root / "id2label.json")) or "{}", object_pairs_hook=list)
        named = {int(key): " ".join(str(name).split()) for key, name in pairs}
        if len(named) < len(pairs):
            raise ValueError("an id stands twice")
    except (ValueError, TypeError, RecursionError) as err:
        plan.notes.append(f"classes: id2label.json is not used: {err}")
        return {}
    return named


def _of_roboflow(root: Path) -> dict[int, str]:
    """Reads the files _classes.csv of an export of Roboflow."""
    files = [path for path in find_files(root) if path.name == "_classes.csv"]
    cells = [line.partition(",") for path in files for line in _lines(path)]
    return {int(number): name.strip() for number, _, name in cells if re.fullmatch(r" *\d{1,5} *", number)}


def _of_lines(plan: FolderPlan, root: Path, ids: Sequence[int]) -> list[str]:
    """Reads codes.txt, classes.txt or the like, whose line i names the id i."""
    for name in ("codes.txt", "classes.txt", "class_names.txt", "names.txt"):
        lines = [" ".join(line.split()) for line in "\n".join(_lines(root / name)).strip().split("\n")]
        if lines == [""]:
            continue
        reason = next((f"line {i} holds no name" for i, line in enumerate(lines, 1) if line[:1] in ("", "#")), "")
        if not reason and len(set(lines)) < len(lines):
            reason = "a name stands twice"
        if not reason and len(lines) <= ids[-1]:
            reason = f"{len(lines)} names for ids to {ids[-1]}"
        if reason:
            plan.notes.append(f"classes: {name} is not used: {reason}")
            continue
        if len(lines) > len(ids):
            rest = f"{len(lines) - len(ids)} of {len(lines)} names in {name}"
            plan.notes.append(f"classes: {rest} occur in no label; add them to classes.tsv to predict them")
        return [lines[file_id] for file_id in ids]
    return []


def _of_rows(plan: FolderPlan, root: Path, ids: Sequence[int], of_colours: list[str]) -> list[str]:
    """Takes the names of a table of colours, whose row i then names the id i."""
    has_rest = len(of_colours) == ids[-1] + 2 and means_no_class(of_colours[-1])
    names = of_colours[:-1] if has_rest else of_colours
    if len({*names}) == len(names) == ids[-1] + 1:
        return [names[file_id] for file_id in ids]
    if names:
        name = next(name for name in COLOUR_TABLES if is_file(root / name))
        plan.notes.append(f"classes: {name} is not used: {len(names)} rows for ids to {ids[-1]}")
    return []


def _lines(path: Path) -> list[str]:
    """Returns the lines of a text file; none where there is no such file."""
    return text_lines(path, "names of classes") if is_file(path) else []
