"""Masks of COCO files: panoptic ones, and results with run lengths (RLE). Imports no torch."""

import os
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, ValidationError

from segnl.core import IGNORE
from segnl.core.arrays import Ids
from segnl.core.config import error_place
from segnl.core.errors import ConfigError, DataError, first_line
from segnl.core.files import inside, read_json
from segnl.data.file_error import FileError
from segnl.data.reading import read_image
from segnl.labels.table import means_no_class, plain_name

MAX_BITS = 40
"""Of a compressed run length; longer ones are no lengths of an image."""
MAX_PIXELS = 2**28
"""Largest image that run lengths may describe; a few bytes of them could ask for any amount of memory."""


@dataclass(frozen=True)
class Mask:
    """One mask. where: for messages. read: returns the ids, integer `H W`, or colours `H W 3`; raises DataError.

    image_id: COCO's number of the image, where no file name was given. shape: of an array, read from its header alone.
    """

    where: str
    read: Callable[[], Ids]
    image_id: int | None = None
    shape: Callable[[], tuple[int, ...]] | None = None


Masks = dict[str, Mask]
"""By sample id."""


@dataclass(frozen=True)
class CategoryIds:
    """The ids that masks hold. title: of the class table. by_name: of each class. ignored: those of no class."""

    title: str
    by_name: Mapping[str, int]
    ignored: Collection[int]


class RunLengths(BaseModel):
    """A class's pixels in an image. size: rows, columns. counts: run lengths, or COCO's compressed text of them."""

    size: tuple[int, int]
    counts: list[int] | str


CategoryId = Annotated[int, Field(ge=0, lt=2**31)]


class _Result(BaseModel):
    """One entry of COCO's results: a class in an image."""

    image_id: int | str
    category_id: CategoryId
    segmentation: RunLengths


class _Segment(BaseModel):
    id: Annotated[int, Field(ge=0, lt=2**24)]
    category_id: CategoryId


class _Panoptic(BaseModel):
    """One image of COCO panoptic."""

    file_name: str
    segments_info: list[_Segment]


class _Image(BaseModel):
    id: int | str
    file_name: str


class _Category(BaseModel):
    id: int
    name: str


class _Names(BaseModel):
    """The names of a file's images and categories; empty where it has none."""

    images: list[_Image] = []
    categories: list[_Category] = []


class _PanopticFile(_Names):
    annotations: list[_Panoptic]


class _ResultsFile(_Names):
    annotations: Annotated[list[_Result], Field(min_length=1)]


def coco_masks(path: Path, category_ids: CategoryIds | None = None, reference: Path | None = None) -> Masks:
    """Returns the masks of a COCO file, by the names of their images.

    category_ids: the ids of classes by name, which count if the file names its categories; None: its own numbers.
    reference: COCO's file of the labels, if they have one: its images and categories count for a file without its own.
    Raises DataError for another form of file, and for a category whose name is no class.
    """
    content = _content(path)
    if reference is not None and reference.suffix == ".json" and not content.keys() & {"images", "categories"}:
        content |= {key: value for key, value in _content(reference).items() if key in ("images", "categories")}
    annotations = content.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    is_panoptic = isinstance(first, dict) and "segments_info" in first
    try:
        if is_panoptic:
            return _of_panoptic(path, _PanopticFile.model_validate(content), category_ids)
        return _of_results(path, _ResultsFile.model_validate(content), category_ids)
    except ValidationError as err:
        error = err.errors()[0]
        place = ".".join(error_place(error, content))
        raise FileError(
            path,
            "format",
            f"{place}: {error['msg']} (holds {reprlib.repr(error['input'])}); expected COCO panoptic, or COCO results "
            "with run lengths (RLE)",
        ) from err


def _content(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as err:
        raise FileError(path, "damaged", f"cannot be read as JSON ({first_line(err)})") from err
    return content if isinstance(content, dict) else {"annotations": content}


def _mask_ids(path: Path, content: _Names, used: set[int], classes: CategoryIds | None) -> dict[int, int]:
    """Returns the id in a mask of each category: that of the class of its name, or its own number without names.

    Raises FileError for a category whose name is no class, or two but for capitals, `_` and `-`. One that is called
    void or the like may have an ignored number.
    """
    ids = dict(zip(used, used, strict=True))
    if classes is not None and content.categories:
        plain = {name: plain_name(name) for name in classes.by_name}
        names = {category.id: category.name for category in content.categories}
        if len(names) < len(content.categories):
            raise FileError(path, "format", "categories: an id stands there twice; give each category its own")
        for number in sorted(used):
            name = names.get(number, "")
            alike = [own for own in plain if own == name] or [own for own in plain if plain[own] == plain_name(name)]
            if len(alike) == 1:
                ids[number] = classes.by_name[alike[0]]
            elif alike or not (number in classes.ignored and means_no_class(name)):
                known = alike or [*plain]
                named = f"is named {name!r}" if number in names else "is not among its categories"
                raise FileError(
                    path,
                    "classes",
                    f"category {number} {named}, and {classes.title} has the classes "
                    f"{', '.join(known[:8])}{' ...' * (len(known) > 8)}; use the same names, or remove `categories` if "
                    "category_id is the index of the class table",
                )
    if IGNORE in ids.values():
        raise FileError(path, "id", f"category {IGNORE}, which stands for no class; give it another id")
    return ids


def _of_panoptic(path: Path, content: _PanopticFile, category_ids: CategoryIds | None) -> Masks:
    folder = path.with_suffix("")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; the PNG files of {path.name} are expected there")
    used = {segment.category_id for annotation in content.annotations for segment in annotation.segments_info}
    mask_ids = _mask_ids(path, content, used, category_ids)
    masks: Masks = {}
    for annotation in content.annotations:
        try:
            file = inside(folder, annotation.file_name)
        except ConfigError as err:
            raise FileError(path, "format", f"file_name {err}") from err
        sample_id = _without_suffix(annotation.file_name)
        if sample_id in masks:
            raise DataError(f"{path}: {annotation.file_name} is annotated twice; keep one of them")
        classes = {segment.id: mask_ids[segment.category_id] for segment in annotation.segments_info}
        if len(classes) < len(annotation.segments_info):
            raise FileError(path, "format", f"{annotation.file_name}: a segment's id is listed twice; keep one")
        masks[sample_id] = Mask(str(file), partial(_read_panoptic, file, classes))
    return masks


def _without_suffix(name: str) -> str:
    return os.path.splitext(Path(name).as_posix())[0]


def _read_panoptic(file: Path, classes: Mapping[int, int]) -> Ids:
    """Returns the class of each pixel's segment, 255 where there is none (black)."""
    segment = read_image(file) @ np.array([1, 256, 256**2], np.int64)  # R + 256 G + 256^2 B
    ids, inverse = np.unique(segment, return_inverse=True)
    unknown = [own for own in ids.tolist() if own != 0 and own not in classes]
    if unknown:
        raise FileError(file, "id", f"holds segment {unknown[0]}, which segments_info does not list")
    return np.array([classes.get(own, IGNORE) for own in ids.tolist()])[inverse].reshape(segment.shape)


def _of_results(path: Path, content: _ResultsFile, category_ids: CategoryIds | None) -> Masks:
    mask_ids = _mask_ids(path, content, {result.category_id for result in content.annotations}, category_ids)
    names = {str(image.id): _without_suffix(image.file_name) for image in content.images}
    if len({*names.values()}) < len(content.images):
        raise FileError(path, "format", "images: an id or a file_name stands there twice; give each image its own")
    by_image: dict[str, list[_Result]] = {}
    for result in content.annotations:
        by_image.setdefault(str(result.image_id), []).append(result)
    masks: Masks = {}
    for image_id, results in by_image.items():
        if names and image_id not in names:
            raise FileError(path, "format", f"image_id {image_id} is not among the ids of `images`; add it there")
        sample_id = names.get(image_id, image_id)
        number = results[0].image_id if isinstance(results[0].image_id, int) and not names else None
        read = partial(_read_results, path, sample_id, results, mask_ids)
        masks[sample_id] = Mask(f"{path}: image {sample_id}", read, number)
    return masks


def _read_results(path: Path, sample_id: str, results: Sequence[_Result], mask_ids: Mapping[int, int]) -> Ids:
    """Returns the class of each pixel, 255 where no mask is. Raises FileError where two masks overlap."""
    where = f"image {sample_id}"
    hw = results[0].segmentation.size
    if min(hw) < 1 or hw[0] * hw[1] > MAX_PIXELS:
        raise FileError(path, "format", f"{where}: run lengths of size {hw[0]}x{hw[1]}; expected at most 2^28 pixels")
    out = np.full(hw, IGNORE, np.int64)
    for result in results:
        if result.segmentation.size != hw:
            raise FileError(path, "size", f"{where}: masks of sizes {hw} and {result.segmentation.size}; expected one")
        is_class = decode_run_lengths(result.segmentation, path, where)
        if (out[is_class] != IGNORE).any():
            raise FileError(
                path, "format", f"{where}: two masks overlap; expected one class per pixel, not single objects"
            )
        out[is_class] = mask_ids[result.category_id]
    return out


def decode_run_lengths(lengths: RunLengths, path: Path, where: str) -> npt.NDArray[np.bool_]:
    """Returns whether a pixel belongs to the mask, bool `H W`.

    The size is the caller's to check. Raises FileError, which begins with `path` and `where`, for lengths of another
    number of pixels.
    """
    counts, hw = _counts_of(lengths.counts), lengths.size
    if min(counts, default=0) < 0 or sum(counts) != hw[0] * hw[1]:
        raise FileError(
            path, "damaged", f"{where}: run lengths of {sum(counts)} pixels, but its size is {hw[0]}x{hw[1]}"
        )
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(hw, order="F")  # column by column


def _counts_of(text: str | list[int]) -> list[int]:
    """Returns the run lengths, background first. text: the lengths, or COCO's compressed form of them.

    Source: COCO's maskApi: 5 bits a character, lowest first, bit 5: more follow; from the fourth on a difference from
    the length two before.
    """
    if isinstance(text, list):
        return text
    counts: list[int] = []
    value = shift = 0
    for char in text.encode(errors="replace"):
        bits = char - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20 and shift < MAX_BITS:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
