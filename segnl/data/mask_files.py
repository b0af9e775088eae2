"""Masks that any toolkit wrote, found by sample id: folders, .npz files, COCO panoptic and COCO run lengths.

A mask holds integer ids `H W`, of which 255 stands for "no class", or RGB colours u8 `H W 3`. Imports no torch.

    a folder            .png, .bmp, .tif: one channel of ids, a palette, or RGB colours; .npy, .npz: one array each;
                        folders in it too
    FILE.npz            one array for each sample id
    FILE.json           COCO panoptic (with the PNG folder beside it), or COCO results with run lengths (RLE)
"""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import numpy.typing as npt

from segnl.core.archives import open_file
from segnl.core.arrays import Ids
from segnl.core.errors import DataError
from segnl.core.files import NPZ_FAULTS
from segnl.core.find_files import find_files, name_text
from segnl.core.npz import array_names, array_shape, load_array, read_array
from segnl.data.coco_masks import CategoryIds, Mask, Masks, coco_masks
from segnl.data.file_error import FileError
from segnl.data.reading import read_label

IMAGE_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # lossless ones only
ARRAY_SUFFIXES = (".npy", ".npz")
MAX_GUESSES = 100
"""Labels whose names are compared with that of a prediction, to advise options."""
NO_ENDS: Mapping[str, tuple[str, str]] = {"label": ("", ""), "prediction": ("", "")}


def find_masks(
    path: Path,
    suffix: str = "",
    category_ids: CategoryIds | None = None,
    *,
    prefix: str = "",
    reference: Path | None = None,
) -> Masks:
    """Finds masks by sample id: the path below the folder without its suffix, the name of an array, or the image's.

    suffix: the end of the names to take from a folder, such as `_gtFine_labelIds.png`; prefix: their beginning. Both
    are cut off for the id.
    category_ids, reference: see coco_masks.
    Raises DataError where there is none, for two masks of one id, and for a file that cannot be read.
    """
    if path.is_dir():
        return _of_folder(path, prefix, suffix)
    if prefix or suffix:
        raise DataError(f"{path}: no folder; a prefix or suffix selects the files of a folder")
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected a folder of masks, an .npz or a COCO .json")
    if path.suffix == ".npz":
        return _of_npz(path)
    if path.suffix == ".json":
        return coco_masks(path, category_ids, reference)
    raise DataError(f"{path}: expected a folder of masks, an .npz or a COCO .json")


def _of_folder(folder: Path, prefix: str, suffix: str) -> Masks:
    files: dict[str, Path] = {}
    known = IMAGE_SUFFIXES + ARRAY_SUFFIXES
    for path in find_files(folder):
        name, end = name_text(path.stem), suffix.removesuffix(path.suffix)
        if path.suffix.lower() not in known or not name.startswith(prefix) or not name.endswith(end):
            continue
        sample_id = name_text(
            (path.relative_to(folder).parent / name.removeprefix(prefix).removesuffix(end)).as_posix()
        )
        if sample_id in files:
            raise DataError(f"{path}: {files[sample_id].name} is a mask of the same sample; keep one of them")
        files[sample_id] = path
    if not files:
        wanted = f"{prefix}*{suffix}" if suffix else f"{prefix}*{f', {prefix}*'.join(known)}"
        hints = {".txt": "polygons (.txt) must be drawn as masks first", ".jpg": "JPEG changes ids; save PNG"}
        hint = next((f"; {text}" for end, text in hints.items() if any(folder.rglob(f"*{end}"))), "")
        raise DataError(f"{folder}: no masks; expected {wanted}{hint}")
    return {
        sample_id: Mask(
            str(path), partial(_read_file, path), shape=partial(_shape, path) if path.suffix.lower() == ".npz" else None
        )
        for sample_id, path in files.items()
    }


def _read_file(path: Path) -> Ids:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        try:
            return read_label(path, allow_colours=True)
        except FileError as err:
            raise FileError(path, err.kind, err.detail.replace("label", "mask")) from err
    if path.suffix.lower() == ".npz":
        names = _array_names(path)
        if len(names) != 1:
            raise FileError(path, "format", f"holds {len(names)} arrays; expected one mask in a file")
        return _read_array(path, names[0])
    with _reading(path, "cannot be read as a NumPy file"), open_file(path) as file:
        return _checked(load_array(file), path)


def _of_npz(path: Path) -> Masks:
    names = _array_names(path)
    if not names:
        raise FileError(path, "format", "holds no array; expected one for each sample id")
    return {
        name: Mask(f"{path}: {name}", partial(_read_array, path, name), shape=partial(_shape, path, name))
        for name in names
    }


def _array_names(path: Path) -> list[str]:
    with _reading(path, "cannot be read as an .npz file"):
        return array_names(path)


def _read_array(path: Path, name: str) -> Ids:
    with _reading(path, f"array {name!r} cannot be read"):
        return _checked(read_array(path, name), path, name)


def _shape(path: Path, name: str | None = None) -> tuple[int, ...]:
    """Returns the shape of a mask in an .npz file, with no name of its first array, by the header alone."""
    names = [name] if name is not None else _array_names(path)[:1]
    with _reading(path, "cannot be read as an .npz file"):
        return _without_ones(array_shape(path, names[0])) if names else ()


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns `H W` for `1 H W` and `H W 1`; any other shape as it is."""
    if len(shape) == 3 and 1 in (shape[0], shape[-1]):
        return shape[1:] if shape[0] == 1 else shape[:2]
    return shape


@contextmanager
def _reading(path: Path, fault: str) -> Iterator[None]:
    """Raises FileError for NumPy's errors about a damaged file."""
    try:
        yield
    except NPZ_FAULTS as err:
        raise FileError(path, "damaged", f"{fault} ({err})") from err


def _checked(array: npt.NDArray[Any], path: Path, name: str = "") -> Ids:
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    array = array.reshape(_without_ones(array.shape))
    if array.dtype.kind == "f" and array.ndim == 2 and (np.rint(array) == array).all() and (abs(array) < 2**31).all():
        array = array.astype(np.int64)
    where = f"array {name!r} " if name else ""
    if array.ndim != 2 or array.dtype.kind not in "iu":
        advice = "save the argmax of the class scores" if array.dtype.kind == "f" else "save one id per pixel"
        raise FileError(
            path,
            "format",
            f"{where}of shape {array.shape} and type {array.dtype}; expected integer ids `H W`: {advice}",
        )
    return np.asarray(array)


def pair_masks(
    labels: Masks, predictions: Masks, ends: Mapping[str, tuple[str, str]] = NO_ENDS, kind: str = ""
) -> list[tuple[str, str]]:
    """Pairs each prediction with its label; returns (label's id, prediction's id), sorted.

    Ids are compared whole; if that leaves a prediction without a label, with `_` for `/`; then by the last name of
    their paths; then as numbers (COCO's image 139 is 000000000139). Labels may be left over.
    ends, kind: for advice: the prefix and suffix in use of each side that is a folder; a text in the names of labels.

    Raises DataError naming predictions without a label, two labels of one prediction, or two predictions of one label.
    """
    missing: list[str] = []
    for name_of in (str, _flat, _last_name, _number):
        by_name: dict[str, list[str]] = {}
        for label_id in labels:
            by_name.setdefault(name_of(label_id), []).append(label_id)
        label_ids = {own: by_name.get(name_of(own), []) for own in sorted(predictions)}
        without = [own for own, ids in label_ids.items() if not ids]
        doubled = {own: ids for own, ids in label_ids.items() if len(ids) > 1}
        if not without and not doubled:
            pairs = sorted((ids[0], own) for own, ids in label_ids.items())
            for (label_id, first), (next_id, second) in itertools.pairwise(pairs):
                if label_id == next_id:
                    raise DataError(
                        f"{predictions[second].where}: {predictions[first].where} has the same label, "
                        f"{labels[label_id].where}; keep one of them"
                    )
            return pairs
        if not missing and not doubled and 2 * len(without) < len(predictions):
            missing = without
        if doubled and doubled.keys() >= {*missing} and (not without or 2 * len(doubled) >= len(predictions)):
            own, (first, second, *_) = next(iter(doubled.items()))
            folders = _folders_of_labels(labels, doubled)
            hint = f"use --labels {' or '.join(folders)}" if folders and "label" in ends else "keep one"
            raise DataError(
                f"{predictions[own].where}: two labels have its name, {labels[first].where} and "
                f"{labels[second].where}; {hint}"
            )
    if missing:
        names = [sorted(own, key=lambda name: (len(_number(name)), name)) for own in (labels, predictions)]
        of_labels, of_predictions = (f"'{own[0]}' to '{own[-1]}'" for own in names)
        is_shifted = {_number(own[0]) for own in names} == {"0", "1"}
        rename = "rename them if one side counts from 0 and the other from 1; otherwise " * is_shifted
        raise DataError(
            f"{predictions[missing[0]].where}: no label belongs to {listed(missing, limit=3)}; the other "
            f"{len(predictions) - len(missing)} predictions have one; labels are named {of_labels}, predictions "
            f"{of_predictions}: {rename}add the missing labels, or remove these predictions"
        )
    hint = _options_that_pair(labels, predictions, ends, kind) or (
        'the JSON names no files: save {"images": [{"id": ..., "file_name": ...}, ...], "annotations": [your results]}'
        if any(mask.image_id is not None for mask in [*labels.values(), *predictions.values()])
        else "rename the files, or name what differs with --label-suffix and --prediction-suffix (or -prefix)"
    )
    raise DataError(
        f"{predictions[without[0]].where}: no label belongs to it, as for {len(without)} of {len(predictions)} "
        f"predictions; labels are named like '{min(labels)}': "
        f"{hint}"
    )


def _folders_of_labels(labels: Masks, doubled: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the folders that each have a file of these names, without those of images."""
    paths = [[Path(labels[own].where) for own in ids] for ids in doubled.values()]
    depth = len(Path(os.path.commonpath(paths[0])).parts)
    folders: dict[tuple[str, ...], list[str]] = {}
    for path in itertools.chain(*paths):
        folders.setdefault(path.parts[: depth + 1], []).append(str(path.parent))
    common = {own: os.path.commonpath(parents) for own, parents in folders.items() if len(parents) == len(paths)}
    return [path for own, path in common.items() if "image" not in own[-1].lower()] or [*common.values()]


def _options_that_pair(labels: Masks, predictions: Masks, ends: Mapping[str, tuple[str, str]], kind: str) -> str:
    """Returns advice to cut the names so that most predictions have one label; "" where nothing helps."""
    masks = {"label": labels, "prediction": predictions}
    candidates = [own for own in sorted(labels) if kind.lower() in Path(labels[own].where).name.lower()]
    advice: dict[str, tuple[bool, int]] = {}
    guesses = itertools.product(
        (_flat, _last_name), sorted(predictions)[:3], (candidates or sorted(labels))[:MAX_GUESSES]
    )
    for name_of, prediction_id, label_id in guesses:
        prediction, label = name_of(prediction_id), name_of(label_id)
        match = SequenceMatcher(None, label, prediction, autojunk=False).find_longest_match()
        kept = label[match.a : match.a + match.size].strip("_-. ")
        cuts = {"label": label.partition(kept)[::2], "prediction": prediction.partition(kept)[::2]} if kept else {}
        if (
            not cuts
            or any(
                (before[-1:].isdigit() and kept[0].isdigit())  # 01 and 02 are other samples, not 0 with other ends
                or (after[:1].isdigit() and kept[-1].isdigit())
                or (side not in ends and before + after)
                or (before and name_of is _flat)  # options cut names of files, not of folders
                for side, (before, after) in cuts.items()
            )
        ):
            continue
        options = []
        for side, (before, after) in cuts.items():
            prefix, suffix = ends.get(side, ("", ""))
            end = after + (suffix or ("" if not after else Path(next(iter(masks[side].values())).where).suffix))
            options += [f"--{side}-prefix={quote(prefix + before)}"] * bool(prefix + before)
            options += [f"--{side}-suffix={quote(end)}"] * bool(end)
        if (text := " ".join(options)) not in advice:
            left, right = ([name for own in masks[side] if (name := _cut(name_of(own), *cuts[side]))] for side in cuts)
            is_one_to_one = len({*left}) == len(left) and len({*right}) == len(right)
            helps = is_one_to_one and 2 * len({*left} & {*right}) > len(predictions)
            advice[text] = helps, len(predictions) - len(right)
    fewest = min((num_left_out for helps, num_left_out in advice.values() if helps), default=0)
    helpful = [text for text, found in advice.items() if found == (True, fewest)][:3]
    partly = f" (it selects files: {fewest} of {len(predictions)} predictions are left out)" if fewest else ""
    return f"use {', or '.join(helpful)}{partly}" if helpful else ""


def _cut(name: str, start: str, end: str) -> str:
    """Returns the name without its ends; "" for one that has others."""
    has_ends = name.startswith(start) and name.endswith(end)
    return name[len(start) : len(name) - len(end)] if has_ends else ""


def listed(names: Sequence[str], limit: int) -> str:
    """Writes up to `limit` names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    separator = "; " if any("," in name for name in names[:limit]) else ", "  # ADE20K: "road, route"
    return separator.join(names[:limit]) + more


def _flat(sample_id: str) -> str:
    return sample_id.replace("/", "_")


def _last_name(sample_id: str) -> str:
    return sample_id.rpartition("/")[2]


def _number(sample_id: str) -> str:
    name = _last_name(sample_id)
    return name.lstrip("0") or "0" if name.isascii() and name.isdecimal() else name
