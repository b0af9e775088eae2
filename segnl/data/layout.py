"""Layout of a data set on disk: where images and labels lie, how their names end, which samples a split has."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from segnl.core.archives import folders_in, is_folder, text_lines
from segnl.core.config import Config, Seed
from segnl.core.errors import DataError
from segnl.core.find_files import find_files, name_text
from segnl.core.seeds import seed_for

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp"),
    *(".gif", ".ppm", ".pgm", ".jp2", ".avif"),
)
SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Usual names of a split's folders."""
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")  # lossless ones only
Files = dict[str, Path]
"""Paths by sample id."""


class FoldConfig(Config):
    """Cross-validation: the samples of split train are dealt to folds, of which one is split val, the others train.

    Samples of one group (data.group), such as the frames of a drive, are in one fold.
    """

    count: Annotated[int, Field(ge=2, le=1000)]
    number: Annotated[int, Field(ge=0, lt=1000)]
    """Which fold is split val, 0..count-1."""
    seed: Seed = 0
    """Another seed deals the samples in another way."""

    @model_validator(mode="after")
    def _number_is_a_fold(self) -> "FoldConfig":
        if self.number >= self.count:
            raise ValueError(f"number {self.number}; expected 0 to {self.count - 1}")
        return self

    def ids_of(self, split: str, group_of: Mapping[str, str]) -> set[str]:
        """Returns those of the samples that belong to split `train` or `val`.

        group_of: the group of each sample. Groups are dealt in random order, each to the smallest fold, so without
        groups the sizes of folds differ by one at most. Raises DataError for fewer groups than folds.
        """
        members: dict[str, set[str]] = {}
        for sample_id in sorted(group_of):
            members.setdefault(group_of[sample_id], set()).add(sample_id)
        groups = [*members.values()]
        if len(groups) < self.count:
            raise DataError(f"data.fold: {len(groups)} groups or samples for {self.count} folds; expected as many")
        folds: list[set[str]] = [set() for _ in range(self.count)]
        for i in np.random.default_rng(seed_for(self.seed, "folds")).permutation(len(groups)):
            min(folds, key=len).update(groups[i])
        held_out = folds[self.number]
        return held_out if split == "val" else set(group_of) - held_out


def split_folder(folder: Path) -> Path:
    """Returns the folder of a split as it is. Raises DataError naming the missing folder and the splits that exist."""
    parent = folder.parent
    if is_folder(folder):
        return folder
    if not is_folder(parent):
        raise DataError(f"{parent}: no such folder; data.root must be the folder that holds {parent.name}/")
    splits = ", ".join(map(name_text, folders_in(parent))) or "none"
    raise DataError(f"{parent}: no split '{folder.name}'; it has {splits} (data.splits gives other names)")


def matching_folders(folder: Path) -> dict[str, Path]:
    """Returns the folders that a path stands for, by the names (`cam1/`) that replace each `*` in it."""
    if "*" not in folder.parts or is_folder(folder):
        return {"": folder}
    star = folder.parts.index("*")
    above, below = Path(*folder.parts[:star]), folder.parts[star + 1 :]
    return {
        f"{name}/{names}": match
        for name in folders_in(split_folder(above))
        for names, match in matching_folders(Path(above, name, *below)).items()
        if name[0] != "." and is_folder(match)
    }


def files_by_id(
    folder: Path,
    ends: tuple[str, ...],
    *,
    kind: str,
    recursive: bool = True,
    partner_ends: tuple[str, ...] = (),
    hint: str = "",
) -> Files:
    """Finds the visible files of a folder whose names end in one of `ends`, by SUBFOLDER/NAME without that end.

    Of `*/images`, cam1/images/a.jpg is cam1/a.

    partner_ends: ends of the other kind's names, where both lie in one folder; the longer end decides. kind, hint: for
    the message about a folder without such files.
    Raises DataError for none, and for two files of one id.
    """
    files: Files = {}
    others: list[Path] = []
    matches = matching_folders(folder).items()
    found = [(names, match, path) for names, match in matches for path in find_files(match, recursive=recursive)]
    for names, match, path in found:
        name = path.name.lower()
        end = _end_of(name, ends)
        if end is None or len(_end_of(name, partner_ends) or "") > len(end):
            others.append(path)
            continue
        sample_id = name_text(f"{names}{path.relative_to(match)}"[: -len(end)])
        if sample_id in files:
            raise DataError(
                f"{_ascii_where_alike(path, files[sample_id])}: {_ascii_where_alike(files[sample_id], path)} has the "
                f"same stem, so two {kind} files are called '{sample_id}'; keep one of them"
            )
        files[sample_id] = path
    if not files:
        raise DataError(f"{folder}: no {kind} files; expected *{', *'.join(ends)}{_found(others, kind, hint)}")
    return files


def _end_of(name: str, ends: tuple[str, ...]) -> str | None:
    """Returns the longest of `ends` that a name ends in; None where it has none, or nothing before it."""
    matching = [end for end in ends if name.endswith(end.lower()) and len(name) > len(end)]
    return max(matching, key=len, default=None)


def _ascii_where_alike(path: Path, other: Path) -> str:
    """Returns a path's text, with escapes where it looks like another although its characters differ."""
    return ascii(str(path)) if str(path) != str(other) and name_text(path.name) == name_text(other.name) else str(path)


_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
_JPEG = (".jpg", ".jpeg", ".jfif")


def _found(files: list[Path], kind: str, hint: str) -> str:
    """Writes which other files a folder holds, and what to do with them."""
    if not files:
        return hint and f"; {hint}"
    suffixes = Counter(path.suffix.lower() or path.name for path in files)
    text = "; found " + ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(3))
    commonest = suffixes.most_common(1)[0][0]
    example = next(path.name for path in files if (path.suffix.lower() or path.name) == commonest)
    text += f" such as {name_text(example)}"
    if commonest in _ARCHIVES:
        return f"{text}: unpack the archive"
    if commonest == ".parquet":
        return f"{text}: the images are inside of it; export them as files"
    if kind == "label" and commonest in _JPEG:
        return f"{text}: JPEG changes the ids that it stores; export the labels again as PNG"
    if hint or commonest not in IMAGE_SUFFIXES:
        return text + (hint and f"; {hint}")
    return f"{text}: data.{kind}_suffix says how the names end"


def read_sample_list(file: Path, images: Mapping[str, Path]) -> set[str]:
    """Reads a list of samples, a line each: the id, with or without the image's suffix.

    Raises DataError for a file that cannot be read, and for a line that names no image, or one that a line before does.
    """
    sample_ids: set[str] = set()
    for number, line in enumerate(text_lines(file, "a list of samples, a line each"), start=1):
        exact, stripped = name_text(line), name_text(line.strip())
        if not stripped and exact not in images:
            continue
        sample_id = exact if exact in images else stripped
        if sample_id not in images and (suffix := Path(sample_id).suffix.lower()) in IMAGE_SUFFIXES:
            sample_id = sample_id[: -len(suffix)]
        if sample_id not in images:
            example = min(images, default="")
            raise DataError(
                f"{file}: line {number} names '{sample_id}', which has no image; expected an id such as '{example}'"
            )
        if sample_id in sample_ids:
            raise DataError(f"{file}: line {number} names '{sample_id}' again; name each sample once")
        sample_ids.add(sample_id)
    if not sample_ids:
        raise DataError(f"{file}: names no sample; expected a line each")
    return sample_ids
