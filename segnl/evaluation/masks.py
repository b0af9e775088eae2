"""Predictions as PNG files: ids for a benchmark's server, colours, overlays and error maps for people.

Files: DIR/{ids,colour,overlay,error}/SAMPLE_ID.png, each written atomically.
"""

from pathlib import Path

import cv2
import numpy as np

from segnl.core import IGNORE
from segnl.core.arrays import Mask, Pixels
from segnl.core.files import inside, write_atomic
from segnl.labels.table import ClassTable

KINDS = ("ids", "colour", "overlay", "error")
"""The folders below DIR; `error` needs a label."""

# Orange of Okabe and Ito's palette: people with any kind of colour blindness tell it from grey.
WRONG_RGB = (230, 159, 0)
VOID_RGB = (165, 165, 165)  # lighter than any pixel that was predicted right, or it would pass for sky
DIM, SHADOW = 0.4, 20
"""A pixel predicted right shows DIM of its lightness, on a floor of SHADOW so that dark places can be read."""
OPACITY = 0.5
"""Share of the class colour in an overlay; the rest is the image."""
WRITERS = 2
"""Threads that compress and write PNG files; more would take the network's own cores."""


def write_masks(
    folder: Path, sample_id: str, predicted: Pixels, table: ClassTable, *, image: Pixels, label: Pixels | None = None
) -> list[Path]:
    """Writes one image's masks below `folder` and returns their paths; without a label there is no error map.

    predicted, label: train ids u8 `H W`, 0..k-1 or 255. image: RGB u8 `H W 3`.
    ids are what the data set's own files hold (Cityscapes labelIds 7..33, ADE20K 1..150).

    Raises ValueError when the three differ in size, ConfigError when the id leads out of the folder, MachineError
    when the disk refuses.
    """
    _check(predicted, image, label)
    pictures = {
        "ids": table.to_file(predicted),
        "colour": table.colour(predicted),
        "overlay": overlay(image, predicted, table),
    }
    if label is not None:
        pictures["error"] = error_map(image, predicted, label)
    paths = {kind: mask_path(folder, kind, sample_id) for kind in pictures}  # all are good before a file is written
    for kind, picture in pictures.items():
        write_atomic(paths[kind], png(picture))
    return list(paths.values())


def write_ids(path: Path, predicted: Pixels, table: ClassTable) -> None:
    """Writes train ids u8 `H W` as a PNG in the ids of the data set's files. Not synced: see `write_atomic`."""
    write_atomic(path, png(table.to_file(predicted)), is_synced=False)


def mask_path(folder: Path, kind: str, sample_id: str) -> Path:
    """Returns the path of one of an image's masks; raises ConfigError when that would be outside of `folder`."""
    return inside(folder / kind, f"{sample_id}.png")


def overlay(image: Pixels, predicted: Pixels, table: ClassTable) -> Pixels:
    """Tints the image with its classes' colours, with a light line between them; ignored pixels stay untinted."""
    tinted = cv2.addWeighted(image, 1 - OPACITY, table.colour(predicted), OPACITY, 0.0)
    tinted[predicted == IGNORE] = image[predicted == IGNORE]
    tinted[borders(predicted)] = 255
    return np.asarray(tinted, np.uint8)


def error_map(image: Pixels, predicted: Pixels, label: Pixels) -> Pixels:
    """Draws errors in orange (no class predicted included) on a dim grey image.

    Ignored pixels are a flat grey, since nothing is wrong or right there.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    out = np.repeat((grey * DIM + SHADOW).astype(np.uint8)[:, :, None], 3, axis=2)
    is_void = label == IGNORE
    wrong = (predicted != label) & ~is_void
    # A little of the image's light and dark stays in the colour, so that one sees what was missed.
    light = 0.75 + 0.25 / 255 * grey[wrong]
    out[wrong] = (light[:, None] * np.array(WRONG_RGB)).astype(np.uint8)
    out[is_void] = VOID_RGB
    return out


def borders(predicted: Pixels) -> Mask:
    """Marks pixels whose right or lower neighbour has another class, bool `H W`."""
    edge = np.zeros(predicted.shape, bool)
    edge[:, :-1] |= predicted[:, 1:] != predicted[:, :-1]
    edge[:-1] |= predicted[1:] != predicted[:-1]
    return edge


def png(picture: Pixels) -> bytes:
    """Encodes 8-bit `H W` or RGB `H W 3` as the bytes of a PNG file."""
    channels_last = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)  # OpenCV writes BGR
    done, data = cv2.imencode(".png", channels_last)
    if not done:
        raise ValueError(f"picture {picture.shape} {picture.dtype}; expected uint8 `H W` or `H W 3`")
    return data.tobytes()


def _check(predicted: Pixels, image: Pixels, label: Pixels | None) -> None:
    hw = predicted.shape
    if predicted.ndim != 2 or image.shape != (*hw, 3) or (label is not None and label.shape != hw):
        label_shape = "none" if label is None else label.shape
        raise ValueError(f"predicted {hw}, image {image.shape}, label {label_shape}; expected `H W`, `H W 3`, `H W`")
