"""Label images drawn from annotations, in FOLDER/segnl_labels, and the record of what they were drawn from."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from segnl.core.config import JSONDict
from segnl.core.errors import ConfigError
from segnl.core.files import read_bytes, sha256_of, write_atomic
from segnl.core.find_files import name_text
from segnl.core.progress import Progress
from segnl.data.annotations.base import AnnotatedImage, Annotations

FOLDER = "segnl_labels"
RECORD = "drawn_from.json"
FORMAT = "segnl-labels-1"
"""Changes whenever the same annotations are drawn in another way."""
_DECISIVE = ("format", "kind", "classes", "annotation_files", "sha256")


def record_of(root: Path, annotations: Annotations) -> JSONDict:
    """Returns what the labels depend on: the annotations' bytes, the classes and the way to draw them."""
    digest = hashlib.sha256()
    for path in sorted(annotations.files):
        digest.update(f"{name_text(str(path.relative_to(root)))}\0{sha256_of(path)}\n".encode())
    return {
        "format": FORMAT,
        "kind": annotations.kind,
        "classes": list(annotations.class_names),
        "rule": annotations.rule,
        "annotation_files": len(annotations.files),
        "sha256": digest.hexdigest(),
    }


def is_current(root: Path, record: JSONDict) -> bool:
    """Whether labels are there and of these annotations.

    Raises ConfigError where they are of others, or where the folder was not made by `write_labels`.
    """
    folder = root / FOLDER
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        stored = json.loads(read_bytes(folder / RECORD))
    except (OSError, ValueError, RecursionError) as err:
        raise ConfigError(f"{folder}: holds other files than labels that segnl drew; move it aside") from err
    if not isinstance(stored, dict) or any(stored.get(key) != record[key] for key in _DECISIVE):
        raise ConfigError(
            f"{folder}: the labels are stale: the annotations have changed since they were drawn; move it and "
            "segnl_splits aside, and run segnl new again"
        )
    return True


def write_labels(
    root: Path, record: JSONDict, images: Mapping[str, AnnotatedImage], colours: Sequence[tuple[int, int, int]]
) -> int:
    """Draws the labels that are not there yet, palette PNG by sample id; returns their number.

    colours: of the ids, for viewers. The record is written first, so that a killed run can be continued.
    Raises DataError for annotations that cannot be drawn.
    """
    folder = root / FOLDER
    write_atomic(folder / RECORD, json.dumps(record, indent=1).encode())
    palette = [level for colour in colours for level in colour] + [0] * (3 * (255 - len(colours))) + [224, 224, 192]
    missing = {folder / f"{name}.png": image for name, image in images.items()}
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
