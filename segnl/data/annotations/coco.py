"""COCO instances: a JSON file a split, with polygons or run lengths (RLE) of objects; and COCO panoptic segmentation.

Format: cocodataset.org, "Data format", object detection and panoptic segmentation. Polygons are drawn by pycocotools
(the extra `coco`), as COCO's own evaluation does. Panoptic labels are PNG files of segments, named in a JSON file.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from segnl.core import IGNORE
from segnl.core.arrays import Ids
from segnl.core.errors import DataError
from segnl.core.extras import import_extra
from segnl.core.log import log
from segnl.data.annotations.base import (
    AnnotatedImage,
    Annotations,
    Number,
    ids_of,
    images_by_name,
    json_files,
    require_drawable,
    require_hw,
    require_images,
    split_in,
    split_of,
    validated,
)
from segnl.data.coco_masks import RunLengths, decode_run_lengths
from segnl.data.file_error import FileError
from segnl.data.layout import IMAGE_SUFFIXES
from segnl.data.reading import exif_orientation, read_colours

RULE = "larger objects first and smaller ones over them; crowds are ignored (255) where no object is"


class _Image(BaseModel):
    id: int | str
    file_name: str
    height: int
    width: int


class _Category(BaseModel):
    id: int
    name: str


class _Object(BaseModel):
    image_id: int | str
    category_id: int
    iscrowd: bool = False
    segmentation: list[list[Number]] | RunLengths


class _Instances(BaseModel):
    images: list[_Image]
    annotations: list[_Object]
    categories: list[_Category]


class _Segment(BaseModel):
    id: Annotated[int, Field(ge=1, lt=2**24)]
    category_id: int


class _Segments(BaseModel):
    image_id: int | str
    file_name: str
    segments_info: list[_Segment]


class _Panoptic(BaseModel):
    images: list[_Image]
    annotations: list[_Segments]
    categories: list[_Category]


def find(root: Path, files: Sequence[Path]) -> Annotations | None:
    """Finds COCO panoptic labels, or instances, and their images by name anywhere in the folder.

    Raises DataError for files that contradict the format or each other.
    """
    panoptic = _find_panoptic(root, files)
    if panoptic is not None:
        return panoptic
    candidates = json_files(files, "images", "annotations", "categories", "segmentation")
    if any(path.name.startswith("instances_") for path in candidates):  # beside keypoints of the same images
        candidates = [path for path in candidates if path.name.startswith("instances_")]
    if not candidates:
        return None
    parsed = [(path, _parse(path)) for path in candidates]
    categories = _categories([(path, instances.categories) for path, instances in parsed])
    used = {own.category_id for _, instances in parsed for own in instances.annotations}
    classes, id_of_name = ids_of((name for key, name in sorted(categories.items()) if key in used))
    ids = {key: id_of_name[name] for key, name in categories.items() if key in used}
    notes = []
    if len(ids) < len(categories):
        unused = [name for key, name in categories.items() if key not in used]
        notes.append(f"left out: {len(unused)} categories without an object, such as {unused[0]}")
    if any(isinstance(own.segmentation, list) for _, instances in parsed for own in instances.annotations):
        _pycocotools_mask()  # missing: say so before hours of work
    by_name = images_by_name(files, IMAGE_SUFFIXES)
    images: list[AnnotatedImage] = []
    for path, instances in parsed:
        split = split_in(path.stem) or split_of(root, path)
        num_before = len(images)
        objects: dict[int | str, list[_Object]] = {image.id: [] for image in instances.images}
        for own in instances.annotations:
            objects[own.image_id].append(own)
        for image in instances.images:
            file = _file_of(root, path, image.file_name, split, by_name)
            if file is not None:
                draw = partial(_draw, path, file, image, objects[image.id], ids)
                images.append(AnnotatedImage(file, split, draw))
        missing = len(instances.images) - (len(images) - num_before)
        if missing:
            notes.append(f"left out: {missing} of {len(instances.images)} images of {path.name} are not in the folder")
    path, first = parsed[0]
    require_images(images, path, first.images[0].file_name if first.images else "images: []")
    return Annotations("COCO instances", classes, images, [path for path, _ in parsed], RULE, notes)


def _find_panoptic(root: Path, files: Sequence[Path]) -> Annotations | None:
    """Finds panoptic labels: ids 0, 1, 2 ... are the categories by their id, segment 0 is ignored (255)."""
    present = {*files}
    parsed = []
    labels: dict[tuple[Path, str], Path] = {}
    for path in json_files(files, "images", "annotations", "categories", "segments_info"):
        content = validated(path, _Panoptic, "COCO panoptic segmentation")
        for own in content.annotations:
            places = (path.with_suffix("") / own.file_name, path.parent / own.file_name)
            label = next((place for place in places if place in present), None)
            if label is not None:
                labels[path, own.file_name] = label
        parsed.append((path, content))
    if not labels:  # the PNG files are a download of their own
        return None
    by_name = images_by_name((path for path in files if path not in {*labels.values()}), IMAGE_SUFFIXES)
    categories = _categories([(path, content.categories) for path, content in parsed])
    ids = {key: index for index, key in enumerate(sorted(categories))}
    images: list[AnnotatedImage] = []
    notes = []
    for path, content in parsed:
        split = split_in(path.stem) or split_of(root, path)
        of_id = _by_id(path, content.images)
        num_before = len(images)
        for i, own in enumerate(content.annotations):
            image, label = of_id.get(own.image_id), labels.get((path, own.file_name))
            unknown = next((segment for segment in own.segments_info if segment.category_id not in categories), None)
            if image is None or unknown is not None:
                detail = f"image {own.image_id}" if image is None else f"category {unknown and unknown.category_id}"
                raise FileError(path, "format", f"annotations.{i}: {detail} is not in the file; export it again")
            if len({segment.id for segment in own.segments_info}) < len(own.segments_info):
                raise FileError(path, "format", f"annotations.{i}.segments_info: an id is listed twice; keep one")
            file = _file_of(root, path, image.file_name, split, by_name)
            if file is not None and label is not None:
                images.append(AnnotatedImage(file, split, partial(_draw_panoptic, path, file, label, image, own, ids)))
        missing = len(content.annotations) - (len(images) - num_before)
        if missing:
            notes.append(f"left out: {missing} of {path.name} lack their image or their PNG file")
    path = parsed[0][0]
    require_images(images, path, parsed[0][1].images[0].file_name if parsed[0][1].images else "images: []")
    sources = [*(path for path, _ in parsed), *labels.values()]
    names = [" ".join(categories[key].split()) for key in sorted(categories)]
    return Annotations("COCO panoptic", names, images, sources, "segments by category; 0 is ignored (255)", notes)


def _draw_panoptic(path: Path, file: Path, png: Path, image: _Image, own: _Segments, ids: Mapping[int, int]) -> Ids:
    hw = (image.height, image.width)
    require_hw(path, f"image {image.file_name}", file, hw)
    colours = read_colours(png).astype(np.uint32)
    if colours.shape[:2] != hw:
        raise FileError(png, "size", f"{colours.shape[0]}x{colours.shape[1]} pixels; expected {hw[0]}x{hw[1]}")
    of_segment = {segment.id: ids[segment.category_id] for segment in own.segments_info} | {0: IGNORE}
    values, inverse = np.unique(colours @ np.array([1, 256, 65_536], np.uint32), return_inverse=True)
    unknown = next((int(value) for value in values if int(value) not in of_segment), None)
    if unknown is not None:
        raise FileError(png, "id", f"holds segment {unknown}, which {path.name} does not name; export both again")
    return np.array([of_segment[int(value)] for value in values], np.uint8)[inverse].reshape(hw)


def _parse(path: Path) -> _Instances:
    instances = validated(path, _Instances, "COCO instances with polygons or run lengths (RLE)")
    known_images = _by_id(path, instances.images)
    known_categories = {own.id for own in instances.categories}
    for i, own in enumerate(instances.annotations):
        if own.image_id not in known_images:
            raise FileError(
                path, "format", f"annotations.{i}.image_id: no image has id {own.image_id}; export it again"
            )
        if own.category_id not in known_categories:
            raise FileError(path, "format", f"annotations.{i}.category_id: no category has id {own.category_id}")
        if isinstance(own.segmentation, list):
            image = known_images[own.image_id]
            _check_polygons(path, i, own.segmentation, (image.height, image.width))
    return instances


def _by_id(path: Path, images: Sequence[_Image]) -> dict[int | str, _Image]:
    if doubled := [key for key, count in Counter(own.id for own in images).items() if count > 1]:
        raise FileError(path, "format", f"images: two have id {doubled[0]}; give each its own")
    return {own.id: own for own in images}


def _check_polygons(path: Path, i: int, polygons: list[list[float]], hw: tuple[int, int]) -> None:
    """Refuses what pycocotools would take for a box, or for an outline of any length."""
    if not polygons:
        detail = "is empty: the object has a box, but no outline; annotate it, or remove it"
        raise FileError(path, "format", f"annotations.{i}.segmentation: {detail}")
    for j, polygon in enumerate(polygons):
        where = f"annotations.{i}.segmentation.{j}"
        if len(polygon) < 6 or len(polygon) % 2:
            detail = f"{len(polygon)} numbers; expected x, y of three points at least; correct or remove it"
            raise FileError(path, "format", f"{where}: {detail}")
        require_drawable(path, where, np.reshape(polygon, (-1, 2)), hw)


def _categories(parsed: Sequence[tuple[Path, Sequence[_Category]]]) -> dict[int, str]:
    out: dict[int, str] = {}
    for path, categories in parsed:
        for own in categories:
            if out.setdefault(own.id, own.name) != own.name:
                detail = f"categories: id {own.id} is '{own.name}', but '{out[own.id]}' in {parsed[0][0].name}"
                raise FileError(path, "classes", f"{detail}; export the splits with one list of categories")
    return out


def _file_of(
    root: Path, path: Path, file_name: str, split: str | None, by_name: Mapping[str, list[Path]]
) -> Path | None:
    """Returns the image that ends in `file_name`: the one beside the JSON file, the only one, or that of the split."""
    parts = tuple(part for part in PurePosixPath(file_name.replace("\\", "/")).parts if part not in ("/", ".."))
    if not parts:
        return None
    matching = [own for own in by_name.get(parts[-1], []) if own.parts[-len(parts) :] == parts]
    if path.parent.joinpath(*parts) in matching:
        return path.parent.joinpath(*parts)
    if len(matching) > 1:
        matching = [own for own in matching if split is not None and split_of(root, own) == split] or matching
    if len(matching) > 1:
        raise DataError(
            f"{path}: image '{file_name}' may be {matching[0]} or {matching[1]}; write its folder before it"
        )
    return matching[0] if matching else None


def _draw(path: Path, file: Path, image: _Image, objects: Sequence[_Object], ids: Mapping[int, int]) -> Ids:
    where = f"image {image.file_name}"
    hw = (image.height, image.width)
    require_hw(path, where, file, hw)
    if (orientation := exif_orientation(file)) != 1:
        log.warning("%s: EXIF orientation %d; annotations are taken for pixels as stored", file, orientation)
    masks: list[tuple[bool, int, int, Any]] = []  # whether no crowd, minus the area, the id, the mask's run lengths
    for own in objects:
        value = IGNORE if own.iscrowd else ids[own.category_id]
        if isinstance(own.segmentation, RunLengths):
            if own.segmentation.size != hw:
                raise FileError(path, "size", f"{where}: run lengths of size {own.segmentation.size}; expected {hw}")
            lengths: Any = own.segmentation
            area = int(decode_run_lengths(lengths, path, where).sum())
        else:
            mask = _pycocotools_mask()
            lengths = mask.merge(mask.frPyObjects(own.segmentation, *hw))
            area = int(mask.area(lengths))
        masks.append((not own.iscrowd, -area, value, lengths))
    label = np.zeros(hw, np.uint8)
    for _, _, value, lengths in sorted(masks, key=lambda own: own[:2]):
        if isinstance(lengths, RunLengths):
            label[decode_run_lengths(lengths, path, where)] = value
        else:
            label[_pycocotools_mask().decode(lengths) > 0] = value
    return label


def _pycocotools_mask() -> Any:
    return import_extra("pycocotools.mask", "coco", "COCO polygons: pycocotools is not installed")
