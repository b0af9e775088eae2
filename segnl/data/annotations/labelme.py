"""LabelMe: a JSON file beside each image, with its shapes. Format: github.com/wkentaro/labelme."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pydantic import BaseModel

from segnl.core import IGNORE
from segnl.core.archives import is_file, text_lines
from segnl.core.arrays import Ids
from segnl.core.errors import DataError
from segnl.data.annotations.base import (
    AnnotatedImage,
    Annotations,
    Number,
    fill_polygon,
    ids_of,
    json_files,
    require_drawable,
    require_hw,
    require_upright,
    split_of,
    validated,
)
from segnl.data.file_error import FileError
from segnl.data.layout import IMAGE_SUFFIXES
from segnl.data.reading import DECODER_ERRORS

RULE = "later shapes over earlier ones; a point counts as the pixel that it lies in (OpenCV's fillPoly)"
IGNORED = "__ignore__"
"""LabelMe's own name for pixels that are ignored."""
NUM_POINTS = {"polygon": None, "rectangle": (2, 4), "rotation": (4,), "circle": (2,), "mask": (2,)}
"""Numbers of points by shape type; X-AnyLabeling writes rectangles with four corners, and rotated ones. None: 3 at
least."""


class _Shape(BaseModel):
    label: str
    points: list[tuple[Number, Number]]
    shape_type: str = "polygon"
    mask: str | None = None


class _File(BaseModel):
    imagePath: str  # noqa: N815  the format's name
    imageHeight: int | None = None  # noqa: N815
    imageWidth: int | None = None  # noqa: N815
    shapes: list[_Shape]


def find(root: Path, files: Sequence[Path]) -> Annotations | None:
    """Finds LabelMe's JSON files and their images: `imagePath`, or the image of the same name beside.

    labels.txt gives the order of the classes; without it they are sorted. Raises DataError for files of another form.
    """
    of_form = json_files(files, "shapes", "imagePath")
    if not of_form:
        return None
    present = {path for path in files if path.suffix.lower() in IMAGE_SUFFIXES}
    beside = {path.with_suffix(""): path for path in present}
    # A file beside an image that is empty or damaged is an error below.
    candidates = [
        path for path in files if path in of_form or (path.suffix == ".json" and path.with_suffix("") in beside)
    ]
    parsed = [(path, _parse(path)) for path in candidates]
    class_file = root / "labels.txt"
    lines = text_lines(class_file, "a class a line") if is_file(class_file) else []
    listed = [name for line in lines if (name := line.strip()) and name != IGNORED]
    used = {shape.label for _, content in parsed for shape in content.shapes}
    unlisted = sorted(used - {IGNORED} - set(listed))
    classes, ids = ids_of([*listed, *unlisted])
    images = []
    for path, content in parsed:
        named = Path(os.path.normpath(path.parent / content.imagePath.replace("\\", "/")))
        image = named if named in present else beside.get(path.with_suffix(""))
        if image is None:
            detail = f"imagePath: '{content.imagePath}' is not there, nor an image of the name {path.stem}"
            raise DataError(f"{path}: {detail}; put both into one folder")
        images.append(AnnotatedImage(image, split_of(root, image), partial(_draw, path, image, content, ids)))
    notes = [f"left out: {num} images without a JSON file"] if (num := len(present) - len(images)) > 0 else []
    sources = [path for path, _ in parsed] + [class_file] * bool(listed)
    return Annotations("LabelMe", classes, images, sources, RULE, notes)


def _parse(path: Path) -> _File:
    parsed = validated(path, _File, "a file as LabelMe writes it")
    for i, shape in enumerate(parsed.shapes):
        if shape.shape_type not in NUM_POINTS:
            detail = f"'{shape.shape_type}' is not drawn; expected {', '.join(NUM_POINTS)}; change or remove it"
            raise FileError(path, "format", f"shapes.{i}.shape_type: {detail}")
        numbers, own = NUM_POINTS[shape.shape_type], len(shape.points)
        if own not in numbers if numbers else own < 3:
            expected = " or ".join(map(str, numbers)) if numbers else "three at least"
            detail = f"{own} points of a {shape.shape_type}; expected {expected}; correct or remove it"
            raise FileError(path, "format", f"shapes.{i}.points: {detail}")
    return parsed


def _draw(path: Path, image: Path, content: _File, ids: Mapping[str, int]) -> Ids:
    if content.imageHeight is None or content.imageWidth is None:
        raise FileError(path, "format", "imageHeight, imageWidth: missing; open and save it in LabelMe again")
    hw = (content.imageHeight, content.imageWidth)
    require_upright(image)
    require_hw(path, content.imagePath, image, hw)
    label = np.zeros(hw, np.uint8)
    for i, shape in enumerate(content.shapes):
        value = IGNORE if shape.label == IGNORED else ids[shape.label]
        _draw_shape(label, shape, value, path, f"shapes.{i}")
    return label


def _draw_shape(label: Ids, shape: _Shape, value: int, path: Path, where: str) -> None:
    points = np.array(shape.points)
    if len(points) == 2 and shape.shape_type == "rectangle":
        (left, top), (right, bottom) = points.clip(-1, label.shape[::-1])  # no edge inside moves
        points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    require_drawable(path, f"{where}.points", points, label.shape)
    if shape.shape_type in ("polygon", "rectangle", "rotation"):
        fill_polygon(label, points, value)
    elif shape.shape_type == "circle":  # centre, and a point of the outline
        radius = float(np.hypot(*(points[1] - points[0])))
        x, y = np.floor(points[0]).astype(int).tolist()
        cv2.circle(label, (x, y), round(radius), value, thickness=-1)
    else:
        _draw_mask(label, shape, value, path, where)


def _draw_mask(label: Ids, shape: _Shape, value: int, path: Path, where: str) -> None:
    """Draws a mask: a PNG in base64, and the corners of the pixels that it covers, both inside."""
    (left, top), (right, bottom) = np.floor(shape.points[:2]).astype(int)
    covered = label[max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)]
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape.mask or "")), formats=["PNG"]) as image:
            fits = (image.height, image.width) == covered.shape == (bottom - top + 1, right - left + 1)
            pixels = np.asarray(image.convert("L")) > 0 if fits else None
    except DECODER_ERRORS as err:
        raise FileError(path, "damaged", f"{where}.mask: no PNG in base64; save it in LabelMe again") from err
    if pixels is None:
        detail = "leaves its image, or its points are no corners of it; save it in LabelMe again"
        raise FileError(path, "size", f"{where}.mask: {detail}")
    covered[pixels] = value
