"""Label images drawn from annotations, in FOLDER/segnl_labels, and the record of what they were drawn from."""

import errno
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from segnl.core.archives import is_file, sha256_of
from segnl.core.config import JSONDict
from segnl.core.errors import ConfigError, DataError
from segnl.core.files import (
    LEFTOVER_AGE_S,
    LEFTOVERS,
    inside,
    not_a_link,
    read_json,
    remove_leftovers,
    write_atomic,
)
from segnl.core.find_files import find_files, name_text
from segnl.core.progress import Progress
from segnl.data.annotations.base import AnnotatedImage

FOLDER = "segnl_labels"
RECORD = "drawn_from.json"
FORMAT = "segnl-labels-3"
"""Changes whenever the same annotations are drawn in another way."""
STALE = (
    "the labels are stale: the annotations in {root}, or the way to draw them, have changed; move the labels and "
    "segnl_splits aside, and run segnl new again"
)
_DECISIVE = ("format", "kind", "classes", "source", "files", "sha256")


def record_of(
    home: Path, root: Path, files: Iterable[Path], *, kind: str, classes: Sequence[str] = (), rule: str = ""
) -> JSONDict:
    """Returns what the labels in `home` depend on: the annotations' bytes, the classes and the way to draw them.

    root: the folder of the annotations, `files`. Raises DataError for one that cannot be read.
    """
    names = sorted(str(path.relative_to(root)) for path in files)
    try:
        digest = _digest(root, names)
    except OSError as err:
        raise DataError(f"{err.filename}: cannot be read ({err.strerror}); replace or remove it") from err
    return {
        "format": FORMAT,
        "kind": kind,
        "classes": list(classes),
        "rule": rule,
        "source": os.path.relpath(root, home),
        "files": names,
        "sha256": digest,
    }


def _digest(root: Path, names: Sequence[str]) -> str:
    """SHA-256 over names and bytes of annotations, and over the names of other such files beside them.

    Files that are added later count only where annotations of their kind lie: a text in `root` is none of them.
    """
    for name in names:
        if not is_file(root / name):
            raise FileNotFoundError(errno.ENOENT, "no such file, or a pipe or a device", str(root / name))
    lines = [f"{name_text(name)}\0{sha256_of(root / name)}" for name in names]
    kinds = {((root / name).parent, Path(name).suffix) for name in names}
    kinds -= {(root, suffix) for suffix in (".txt", ".yaml", ".yml")}
    for folder in {folder for folder, _ in kinds}:
        beside = [path for path in find_files(folder, recursive=False) if (folder, path.suffix) in kinds]
        lines += [name_text(str(path.relative_to(root))) for path in beside]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def require_current(label_folder: Path) -> None:
    """Raises DataError where labels were drawn from annotations that have changed since; other labels pass."""
    folder = next((path for path in (label_folder, *label_folder.parents) if path.name == FOLDER), None)
    if folder is None or not (folder / RECORD).is_file():
        return
    record = _stored(folder)
    root = Path(os.path.normpath(folder.parent / str(record.get("source"))))
    try:
        is_same = record.get("sha256") == _digest(root, record.get("files", []))
    except FileNotFoundError:
        is_same = False
    except (OSError, TypeError, ValueError) as err:
        raise DataError(f"{folder / RECORD}: what it lists cannot be read ({err})") from err
    if record.get("format") == FORMAT and not is_same:
        raise DataError(f"{folder}: {STALE.format(root=root)}")


def _stored(folder: Path) -> JSONDict:
    """Reads the record of drawn labels. Raises ConfigError where there is none."""
    try:
        stored = read_json(folder / RECORD)
    except (OSError, ValueError) as err:
        raise ConfigError(f"{folder}: holds other files than labels that segnl drew; move it aside") from err
    return stored if isinstance(stored, dict) else {}


def is_current(home: Path, record: JSONDict) -> bool:
    """Whether labels are there and of these annotations.

    Raises ConfigError where they are of others, or where the folder was not made by `write_labels`.
    """
    folder = not_a_link(home / FOLDER)
    if not folder.exists() or (folder.is_dir() and all(path.match(LEFTOVERS) for path in folder.iterdir())):
        return False
    stored = _stored(folder)
    if any(stored.get(key) != record[key] for key in _DECISIVE):
        raise ConfigError(f"{folder}: {STALE.format(root=os.path.normpath(home / record['source']))}")
    return True


def write_record(home: Path, record: JSONDict) -> None:
    """Writes what the labels in `home` are drawn from, and deletes what a killed process left beside them."""
    remove_leftovers(home / FOLDER, min_age_s=LEFTOVER_AGE_S, recursive=True)
    write_atomic(home / FOLDER / RECORD, json.dumps(record, indent=1).encode())


def write_labels(
    home: Path, record: JSONDict, images: Mapping[str, AnnotatedImage], colours: Sequence[tuple[int, int, int]]
) -> int:
    """Draws the labels that are not there yet, palette PNG by sample id; returns their number.

    colours: of the ids, for viewers. The record is written first, so that a killed run can be continued.
    Raises DataError for annotations that cannot be drawn.
    """
    folder = not_a_link(home / FOLDER)
    write_record(home, record)
    palette = [level for colour in colours for level in colour] + [0] * (3 * (255 - len(colours))) + [224, 224, 192]
    missing = {inside(folder, f"{name}.png"): image for name, image in images.items()}
    missing = {path: image for path, image in missing.items() if not path.exists()}
    with Progress("labels", len(missing), unit="image") as progress:
        for path, image in missing.items():
            picture = Image.fromarray(image.draw()).convert("P")
            picture.putpalette(palette)
            packed = io.BytesIO()
            picture.save(packed, "PNG")
            write_atomic(path, packed.getvalue(), is_synced=False)
            progress.advance()
    return len(missing)
