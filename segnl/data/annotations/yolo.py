"""YOLO segmentation: data.yaml names classes and splits; labels/NAME.txt has a polygon a line, in fractions.

Format: docs.ultralytics.com, "Instance Segmentation Datasets".
"""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segnl.core.archives import bytes_of, is_file, is_folder, text_lines
from segnl.core.arrays import Ids
from segnl.core.config import JSONDict, parse_yaml
from segnl.core.errors import DataError
from segnl.data.annotations.base import (
    AnnotatedImage,
    Annotations,
    fill_polygon,
    ids_of,
    require_drawable,
    require_images,
    require_upright,
    split_in,
)
from segnl.data.file_error import FileError
from segnl.data.layout import IMAGE_SUFFIXES
from segnl.data.reading import image_hw

RULE = (
    "larger polygons first and smaller ones over them; a point counts as the pixel that it lies in (OpenCV's fillPoly)"
)
YAML_SUFFIXES = (".yaml", ".yml")
TOLERANCE = 0.01
"""Fraction of the image by which a point may lie outside."""


def find(root: Path, files: Sequence[Path]) -> Annotations | None:
    """Finds a YAML file with `names` and `train`, and images and labels in its folder.

    An image without a label file is background, as in ultralytics; a split test without any is left out.
    Raises DataError for names and paths that do not fit.
    """
    found = []
    for path in files:
        if path.suffix.lower() in YAML_SUFFIXES and b"names" in (text := bytes_of(path)):
            settings = parse_yaml(text.decode("utf-8", "backslashreplace"), str(path))
            if isinstance(settings, dict):  # CVAT writes Train, Validation
                settings = {split_in(str(key)) or key: value for key, value in settings.items() if str(key).isalpha()}
            if isinstance(settings, dict) and settings.keys() >= {"names", "train"}:
                found.append((path, settings))
    if not found:
        return None
    if len(found) > 1:
        raise DataError(f"{found[1][0]}: {found[0][0]} names classes and splits too; keep one of them")
    path, settings = found[0]
    root = path.parent
    names = class_names(path, settings)
    classes, id_of_name = ids_of(names.values())
    ids = {key: id_of_name[name] for key, name in names.items()}
    images, labels, notes = [], [], []
    present = set(files)
    for split in ("train", "val", "test"):
        in_split = _images(root, path, settings, split, files)
        label_of = {image: _label_of(root, image) for image in in_split}
        num_labels = sum(label in present for label in label_of.values())
        if split == "test" and not num_labels:
            continue
        if in_split and not num_labels:
            example = label_of[in_split[0]]
            raise DataError(f"{path}: {split}: no image has a label file; expected such as {example}")
        if num_labels < len(in_split):
            notes.append(f"background: {len(in_split) - num_labels} images of {split} have no label file")
        for image, label in label_of.items():
            images.append(AnnotatedImage(image, split, partial(_draw, image, label if label in present else None, ids)))
            labels += [label] if label in present else []
    require_images(images, path, f"train: {settings['train']}")
    return Annotations("YOLO polygons", classes, images, [path, *labels], RULE, notes)


def class_names(path: Path, settings: JSONDict) -> dict[int, str]:
    """Returns the names by class number. settings: of data.yaml; its `names` are a list, or {0: NAME, ...}.

    Raises FileError for a file without names, or with one that stands there twice.
    """
    names = settings.get("names")
    mapping = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(mapping, dict) or not mapping or not all(re.fullmatch(r"\d{1,9}", str(key)) for key in mapping):
        raise FileError(path, "format", "names: expected a list of class names, or {0: NAME, ...}")
    out = {int(key): str(name) for key, name in sorted(mapping.items(), key=lambda item: int(item[0]))}
    if len(set(out.values())) < len(mapping):
        raise FileError(path, "classes", "names: one name stands there twice, or one number; give each class its own")
    return out


def _images(root: Path, path: Path, settings: JSONDict, split: str, files: Sequence[Path]) -> list[Path]:
    """Returns the images of a split: of a folder, of a list in a .txt file, or of several of these."""
    value = settings.get(split)
    places = value if isinstance(value, list) else [value] if value else []
    out: dict[Path, None] = {}
    for place in places:
        target = _resolve(root, settings, str(place))
        if target is None:
            if split == "test":  # often named without being exported
                continue
            advice = f"write it relative to {path.name}, such as images/train, or give the folder that holds both"
            raise DataError(f"{path}: {split}: '{place}' is not in {root}; {advice}")
        if is_folder(target):
            own = [file for file in files if file.is_relative_to(target)]
        else:
            lines = text_lines(target, "a list of images, a line each")
            listed = [(line.strip(), _resolve(root, settings, line.strip(), target.parent)) for line in lines]
            missing = next((line for line, file in listed if line and file is None), None)
            if missing is not None:
                advice = "correct the list; its paths may be relative to it, such as images/train/a.jpg"
                raise FileError(target, "missing", f"'{missing}' is not in {root}; {advice}")
            own = [file for line, file in listed if line and file is not None]
        out |= dict.fromkeys(file for file in own if file.suffix.lower() in IMAGE_SUFFIXES)
    return list(out)


def _resolve(root: Path, settings: JSONDict, place: str, *bases: Path) -> Path | None:
    r"""Returns the file or folder inside `root` that a path of data.yaml means; None where there is none.

    Exports are moved: `path` is often of another machine, `../train` often means `train`, and Windows writes `\`.
    """
    for base in (root / str(settings.get("path") or "."), root, *bases):
        for text in (place, plain := place.replace("\\", "/"), plain.lstrip("./")):
            target = Path(os.path.normpath(base / text))
            with suppress(OSError):  # a name that is too long for any file
                if target.is_relative_to(root) and (is_folder(target) or is_file(target)):
                    return target
    return None


def _label_of(root: Path, image: Path) -> Path:
    """Returns the label's path: the last folder `images` becomes `labels`; beside the image where there is none."""
    above, images, below = f"/{image.relative_to(root).with_suffix('.txt')}".rpartition("/images/")
    return root / (f"{above}/labels/{below}" if images else below).lstrip("/")


def _draw(image: Path, label: Path | None, ids: Mapping[int, int]) -> Ids:
    require_upright(image)
    hw = image_hw(image)
    polygons = [] if label is None else _polygons(label, ids)
    out = np.zeros(hw, np.uint8)
    for value, points in sorted(polygons, key=lambda own: -_area(own[1])):
        require_drawable(label or image, f"a polygon of {len(points)} points", points * (hw[1], hw[0]), hw)
        fill_polygon(out, points * (hw[1], hw[0]), value)
    return out


def _polygons(path: Path, ids: Mapping[int, int]) -> list[tuple[int, Any]]:
    """Reads `CLASS x y x y ...`, a line each; returns the id and the points `n 2` in fractions of the image."""
    out = []
    for number, line in enumerate(text_lines(path, "lines of a class and a polygon"), start=1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) == 5:
            detail = "is a box, of class, centre and size; expected a polygon (export for segmentation)"
            raise FileError(path, "format", f"line {number} {detail}")
        try:
            if "_" in line:  # Python reads 1_0 as 10
                raise ValueError(line)
            class_number, points = float(cells[0]), np.array(cells[1:], float).reshape(-1, 2)
        except ValueError as err:
            raise FileError(path, "format", f"line {number}: expected a class and x, y of points, numbers all") from err
        if class_number not in ids:
            detail = f"class {cells[0]}; data.yaml names {min(ids)} to {max(ids)}"
            raise FileError(path, "classes", f"line {number}: {detail}: add it to names, or remove the line")
        if len(points) < 3:
            raise FileError(path, "format", f"line {number}: {len(points)} points; expected three at least; remove it")
        if not ((points >= -TOLERANCE) & (points <= 1 + TOLERANCE)).all():
            detail = "a point outside of 0..1; expected fractions of the image's width and height"
            raise FileError(path, "format", f"line {number}: {detail}: export it again")
        out.append((ids[int(class_number)], points))
    return out


def _area(points: Any) -> float:
    """Returns the area of a polygon (the shoelace formula)."""
    x, y = points.T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
