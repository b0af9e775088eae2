"""Contract of the annotation formats: images with shapes of named classes, drawn as labels of ids. Imports no torch.

A format is a file in this folder with `find(root, files) -> Annotations | None`: None where the folder holds no such
annotations. Id 0 is the background, 255 is ignored, and the classes are 1, 2, 3 ...
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import cv2
import numpy as np
from pydantic import BaseModel, Field, ValidationError

from segnl.core.archives import bytes_of
from segnl.core.arrays import Ids
from segnl.core.config import error_place
from segnl.core.errors import DataError, first_line
from segnl.data.file_error import FileError
from segnl.data.layout import SPLIT_WORDS
from segnl.data.reading import exif_orientation, image_hw

Content = TypeVar("Content", bound=BaseModel)
Number = Annotated[float, Field(allow_inf_nan=False)]
MAX_OUTLINE_PX, MAX_ROUNDS = 2**22, 500
"""Longest outline of a polygon, also in heights plus widths of its image: pycocotools takes some 50 bytes for each of
its pixels, and fillPoly's time grows with the square of the edges in a row."""
BACKGROUND_WORDS = ("background", "_background_", "__background__")


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its label. split: train, val, test, or None. draw: returns ids u8 `H W`; raises DataError."""

    path: Path
    split: str | None
    draw: Callable[[], Ids]


@dataclass(frozen=True)
class Annotations:
    """The annotated images of a folder. class_names: by id, the background first. files: all that the labels depend on.
    rule: how shapes become pixels. notes: what was decided.
    """

    kind: str
    class_names: Sequence[str]
    images: Sequence[AnnotatedImage]
    files: Sequence[Path]
    rule: str
    notes: list[str] = field(default_factory=list)


def _content(path: Path) -> bytes:
    try:
        return bytes_of(path)
    except OSError as err:
        raise FileError(path, "unreadable", f"cannot be read ({err.strerror}); check its permissions") from err


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file. Raises FileError for one that cannot be read."""
    content = _content(path)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as err:
        raise FileError(path, "damaged", f"cannot be read as JSON ({first_line(err)}); export it again") from err


def validated(path: Path, model: type[Content], expected: str) -> Content:
    """Returns the content of a JSON file as `model`. Raises FileError, saying what was expected, for another form."""
    mapping = read_json(path)
    try:
        return model.model_validate(mapping)
    except ValidationError as err:
        error = err.errors()[0]
        place = ".".join(error_place(error, mapping))
        raise FileError(path, "format", f"{place}: {error['msg']}; expected {expected}") from err


def json_files(files: Iterable[Path], *keys: str) -> list[Path]:
    """Returns the JSON files in whose text all of `keys` stand."""
    words = [f'"{key}"'.encode() for key in keys]
    contents = ((path, _content(path)) for path in files if path.suffix.lower() == ".json")
    return [path for path, content in contents if all(word in content for word in words)]


def ids_of(names: Iterable[str]) -> tuple[list[str], dict[str, int]]:
    """Returns the classes by id, and the id of each name: 0 for a name of the background, 1, 2, 3 ... for the others.

    A class is written with single spaces, since it stands in classes.tsv.
    """
    own = list(dict.fromkeys(names))
    background = next((name for name in own if name.lower() in BACKGROUND_WORDS), None)
    classes = ["background", *(name for name in own if name != background)]
    ids = {name: index for index, name in enumerate(classes[1:], start=1)}
    return [" ".join(name.split()) for name in classes], ids | ({} if background is None else {background: 0})


def split_in(name: str) -> str | None:
    """Returns train, val or test if a word of `name` means it, such as instances_val2017 or Training."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((split for split, spellings in SPLIT_WORDS.items() if any(word in spellings for word in words)), None)


def split_of(root: Path, path: Path) -> str | None:
    """Returns the split that a folder above `path` is named by, the nearest first."""
    parents = reversed(path.relative_to(root).parts[:-1])
    return next((split for part in parents if (split := split_in(part)) is not None), None)


def require_hw(path: Path, where: str, image: Path, hw: tuple[int, int]) -> None:
    """Raises FileError unless the image has the size that its annotations say."""
    own = image_hw(image)
    if own != hw:
        detail = f"height and width are {hw[0]} and {hw[1]}, but {image.name} has {own[0]}x{own[1]} pixels"
        advice = "annotate the image as it is, or restore the image that was annotated"
        raise FileError(path, "size", f"{where}: {detail}; {advice}")


def require_upright(image: Path) -> None:
    """Raises FileError for an image with an orientation tag: it was annotated rotated, and is read as stored."""
    if (orientation := exif_orientation(image)) != 1:
        detail = f"EXIF orientation {orientation}: it was annotated rotated, but pixels are read as stored"
        raise FileError(image, "orientation", f"{detail}; save it upright, such as with mogrify -auto-orient")


def require_drawable(path: Path, where: str, points: Any, hw: tuple[int, int]) -> None:
    """Raises FileError for a point further than one image size outside, and for an outline without end.

    points: x, y in pixels, `n 2`.
    """
    if (points < (-hw[1], -hw[0])).any() or (points > (2 * hw[1], 2 * hw[0])).any():
        raise FileError(path, "format", f"{where}: lies far outside of its image of {hw[0]}x{hw[1]} pixels; correct it")
    length = np.abs(points - np.roll(points, 1, axis=0)).max(1).sum()
    if length > (most := min(MAX_OUTLINE_PX, MAX_ROUNDS * sum(hw))):
        detail = f"an outline of {length:,.0f} pixels; expected {most:,} at most; correct it"
        raise FileError(path, "format", f"{where}: {detail}")


def fill_polygon(label: Ids, points: Any, value: int) -> None:
    """Fills a polygon, its outline included. points: x, y from the image's left top corner, in pixels, `n 2`.

    A point counts as the pixel that it lies in (OpenCV's fillPoly), beyond the border too.
    """
    (rows, columns), corners = label.shape, np.floor(points).astype(np.int32)
    low, high = np.minimum(corners.min(0), 0), np.maximum(corners.max(0) + 1, (columns, rows))
    if (high - low == (columns, rows)).all():
        cv2.fillPoly(label, [corners], value)
        return
    canvas = np.zeros((high - low)[::-1], np.uint8)  # fillPoly bends edges that it has to clip
    cv2.fillPoly(canvas, [corners - low], 1)
    left, top = -low
    label[canvas[top : top + rows, left : left + columns] > 0] = value


def images_by_name(files: Iterable[Path], suffixes: Sequence[str]) -> Mapping[str, list[Path]]:
    """Returns the image files by the last part of their paths."""
    out: dict[str, list[Path]] = {}
    for path in files:
        if path.suffix.lower() in suffixes:
            out.setdefault(path.name, []).append(path)
    return out


def require_images(images: Sequence[AnnotatedImage], path: Path, example: str) -> None:
    """Raises DataError where none of the annotated images is there."""
    if not images:
        advice = "correct the folders in these names, or give the folder of both"
        raise DataError(f"{path}: none of its images is in the folder, such as {example}; {advice}")
