"""PNG files of predictions: ids for a benchmark's server; colours, overlays and error maps for people.

Files: DIR/{ids,colour,overlay,error}/SAMPLE_ID.png, each written atomically.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from segnl.core import IGNORE
from segnl.core.archives import sha256_of
from segnl.core.arrays import Ids, Mask, Pixels
from segnl.core.files import inside, not_a_link, write_atomic
from segnl.core.outputs import marked, png_with_text
from segnl.core.png import png
from segnl.data.reading import read_label, rgb_view
from segnl.labels.table import ClassTable

KINDS = ("ids", "colour", "overlay", "error")
"""Folders below DIR; `error` needs a label."""

# Orange of Okabe and Ito's palette, which differs from grey for people with any kind of colour blindness.
WRONG_RGB = (230, 159, 0)
IGNORED_RGB = (165, 165, 165)  # lighter than any correct pixel, or it would look like sky
DIM, SHADOW = 0.4, 20
"""A correct pixel shows DIM of its lightness plus SHADOW, so that dark areas stay readable."""
OPACITY = 0.5
"""Weight of the class colour in an overlay; the image has the rest."""
WRITERS = 2
"""Threads that compress and write PNG files; more would take cores from the network."""


def write_masks(
    folder: Path,
    sample_id: str,
    prediction: Pixels,
    table: ClassTable,
    *,
    image: Pixels,
    label: Pixels | None = None,
    command: str | None = None,
    key_digest: str = "",
) -> list[Path]:
    """Writes one image's masks below `folder` and returns their paths; without a label there is no error map.

    command: that of segnl which the user gave the folder, where single files are its own; see core/outputs.py.
    key_digest: of the evaluation that may read the ids again; they are sealed for it.
    prediction, label: train ids u8 `H W`, 0..k-1 or 255. image: RGB u8 `H W 3`.
    The ids files hold the ids of the data set's own files (Cityscapes labelIds 7..33, ADE20K 1..150).

    Raises ValueError when the three differ in size, ConfigError when the id leads out of the folder, MachineError
    when a file cannot be written.
    """
    image = rgb_view(image)
    _check(prediction, image, label)
    pictures = {
        "ids": table.to_mask(prediction),
        "colour": table.colour(prediction),
        "overlay": overlay(image, prediction, table),
    }
    if label is not None:
        pictures["error"] = error_map(image, prediction, label)
    paths = {kind: mask_path(folder / kind, sample_id) for kind in pictures}  # checks every path before writing
    for kind, picture in pictures.items():
        packed = png(picture) if command is None else marked(png(picture), command)
        if key_digest and kind == "ids":
            packed = png_with_text(packed, "Comment", seal_of(key_digest, sample_id, picture))
        write_atomic(paths[kind], packed)
    return list(paths.values())


def seal_of(key_digest: str, sample_id: str, ids: Ids) -> str:
    """Returns a text that a mask holds if it is of this evaluation and this image, and was not changed since."""
    content = f"{key_digest} {sample_id} {ids.dtype} {ids.shape} ".encode("utf-8", "surrogatepass") + ids.tobytes()
    return hashlib.sha256(content).hexdigest()


def write_ids(path: Path, prediction: Pixels, table: ClassTable) -> None:
    """Writes train ids u8 `H W` as a PNG with the data set's own ids. Not synced: see `write_atomic`."""
    write_atomic(path, png(table.to_mask(prediction)), is_synced=False)


def mask_path(folder: Path, sample_id: str) -> Path:
    """Returns the path of an image's mask in a folder.

    Raises ConfigError when the path is outside of `folder`, or `folder` is a symbolic link.
    """
    return inside(not_a_link(folder), f"{sample_id}.png")


def masks_digest(folder: Path, sample_ids: Sequence[str]) -> str | None:
    """Returns the SHA-256 of the mask files in a folder; None if one is missing.

    It detects masks damaged by a power cut, so the masks need not be synced to disk one by one.
    """
    paths = [mask_path(folder, sample_id) for sample_id in sample_ids]
    if not all(path.is_file() for path in paths):
        return None
    return hashlib.sha256("\n".join(map(sha256_of, paths)).encode()).hexdigest()


def read_ids(folder: Path, sample_id: str, table: ClassTable) -> Pixels:
    """Reads a mask of the data set's own ids as train ids u8 `H W`; raises DataError for a damaged file."""
    path = mask_path(folder, sample_id)
    return table.from_mask(read_label(path), str(path))


def overlay(image: Pixels, prediction: Pixels, table: ClassTable) -> Pixels:
    """Blends the image with its classes' colours, with white borders; ignored pixels keep the image's colour."""
    tinted = cv2.addWeighted(image, 1 - OPACITY, table.colour(prediction), OPACITY, 0.0)
    tinted[prediction == IGNORE] = image[prediction == IGNORE]
    tinted[borders(prediction)] = 255
    return np.asarray(tinted, np.uint8)


def error_map(image: Pixels, prediction: Pixels, label: Pixels) -> Pixels:
    """Draws errors in orange on a dim grey image; a pixel predicted as ignored is an error.

    Pixels whose label is ignored are a flat grey, since they are neither correct nor wrong.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    out = np.repeat((grey * DIM + SHADOW).astype(np.uint8)[:, :, None], 3, axis=2)
    is_ignored = label == IGNORE
    wrong = (prediction != label) & ~is_ignored
    # The colour keeps some of the image's lightness, so that the missed object stays visible.
    light = 0.75 + 0.25 / 255 * grey[wrong]
    out[wrong] = (light[:, None] * np.array(WRONG_RGB)).astype(np.uint8)
    out[is_ignored] = IGNORED_RGB
    return out


def borders(prediction: Pixels) -> Mask:
    """Marks pixels whose right or lower neighbour has another class, bool `H W`."""
    edge = np.zeros(prediction.shape, bool)
    edge[:, :-1] |= prediction[:, 1:] != prediction[:, :-1]
    edge[:-1] |= prediction[1:] != prediction[:-1]
    return edge


def _check(prediction: Pixels, image: Pixels, label: Pixels | None) -> None:
    hw = prediction.shape
    if prediction.ndim != 2 or image.shape != (*hw, 3) or (label is not None and label.shape != hw):
        label_shape = "none" if label is None else label.shape
        raise ValueError(f"prediction {hw}, image {image.shape}, label {label_shape}; expected `H W`, `H W 3`, `H W`")
