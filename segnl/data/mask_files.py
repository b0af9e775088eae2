"""Masks that any toolkit wrote, found by sample id: folders, .npz files, COCO panoptic and COCO run lengths.

A mask holds integer ids `H W`; 255 stands for "no class". Imports no torch.

    a folder            .png, .bmp, .tif: one channel of ids or a palette; .npy, .npz: one array each; folders in it too
    FILE.npz            one array for each sample id
    FILE.json           COCO panoptic (with the PNG folder beside it), or COCO results with run lengths (RLE)
"""

import itertools
import json
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, ValidationError

from segnl.core import IGNORE
from segnl.core.arrays import Ids
from segnl.core.errors import ConfigError, DataError
from segnl.core.files import NPZ_FAULTS, inside
from segnl.core.find_files import find_files, name_text
from segnl.core.npz import array_names, load_array, read_array
from segnl.data.reading import FileError, read_image, read_label

IMAGE_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # lossless ones only
ARRAY_SUFFIXES = (".npy", ".npz")
MAX_BITS = 40
"""Of a compressed run length; longer ones are no lengths of an image."""
MAX_PIXELS = 2**28
"""Largest image that run lengths may describe; a few bytes of them could ask for any amount of memory."""


@dataclass(frozen=True)
class Mask:
    """One mask. where: for messages. read: returns the ids, integer `H W`; raises DataError."""

    where: str
    read: Callable[[], Ids]


Masks = dict[str, Mask]
"""By sample id."""


def find_masks(path: Path, suffix: str = "") -> Masks:
    """Finds masks by sample id: the path below the folder without its suffix, the name of an array, or the image's.

    suffix: the end of the names to take from a folder, such as `_gtFine_labelIds.png`; it is cut off for the id.
    Raises DataError where there is none, for two masks of one id, and for a file that cannot be read.
    """
    if path.is_dir():
        return _of_folder(path, suffix)
    if suffix:
        raise DataError(f"{path}: no folder; a suffix selects the files of a folder")
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; expected a folder of masks, an .npz or a COCO .json")
    if path.suffix == ".npz":
        return _of_npz(path)
    if path.suffix == ".json":
        return _of_json(path)
    raise DataError(f"{path}: expected a folder of masks, an .npz or a COCO .json")


def _of_folder(folder: Path, suffix: str) -> Masks:
    files: dict[str, Path] = {}
    known = IMAGE_SUFFIXES + ARRAY_SUFFIXES
    for path in find_files(folder):
        sample_id = name_text(path.relative_to(folder).with_suffix("").as_posix())
        end = suffix.removesuffix(path.suffix)
        if path.suffix.lower() not in known or not sample_id.endswith(end):
            continue
        sample_id = sample_id.removesuffix(end)
        if sample_id in files:
            raise DataError(f"{path}: {files[sample_id].name} is a mask of the same sample; keep one of them")
        files[sample_id] = path
    if not files:
        wanted = f"*{suffix}" if suffix else f"*{', *'.join(known)}"
        raise DataError(f"{folder}: no masks; expected {wanted}")
    return {sample_id: Mask(str(path), partial(_read_file, path)) for sample_id, path in files.items()}


def _read_file(path: Path) -> Ids:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        try:
            return read_label(path)
        except FileError as err:  # its advice is about recipes
            detail = err.detail.replace("data.label_map reads colours", "convert the colours to class ids first")
            raise FileError(path, err.kind, detail.replace("label", "mask")) from err
    if path.suffix.lower() == ".npz":
        names = _array_names(path)
        if len(names) != 1:
            raise FileError(path, "format", f"holds {len(names)} arrays; expected one mask in a file")
        return _read_array(path, names[0])
    try:
        with path.open("rb") as file:
            return _checked(load_array(file), path)
    except NPZ_FAULTS as err:
        raise FileError(path, "damaged", f"cannot be read as a NumPy file ({err})") from err


def _of_npz(path: Path) -> Masks:
    names = _array_names(path)
    if not names:
        raise FileError(path, "format", "holds no array; expected one for each sample id")
    return {name: Mask(f"{path}: {name}", partial(_read_array, path, name)) for name in names}


def _array_names(path: Path) -> list[str]:
    try:
        return array_names(path)
    except NPZ_FAULTS as err:
        raise FileError(path, "damaged", f"cannot be read as an .npz file ({err})") from err


def _read_array(path: Path, name: str) -> Ids:
    try:
        return _checked(read_array(path, name), path, name)
    except NPZ_FAULTS as err:
        raise FileError(path, "damaged", f"array {name!r} cannot be read ({err})") from err


def _checked(array: npt.NDArray[Any], path: Path, name: str = "") -> Ids:
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    where = f"array {name!r} " if name else ""
    if array.ndim != 2 or array.dtype.kind not in "iu":
        advice = "save the argmax of the class scores" if array.dtype.kind == "f" else "save one id per pixel"
        raise FileError(
            path,
            "format",
            f"{where}of shape {array.shape} and type {array.dtype}; expected integer ids `H W`: {advice}",
        )
    return np.asarray(array)


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


class _PanopticFile(BaseModel):
    annotations: list[_Panoptic]


class _ResultsFile(BaseModel):
    annotations: Annotated[list[_Result], Field(min_length=1)]
    images: list[_Image] = []


def _of_json(path: Path) -> Masks:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        reason = str(err).splitlines()[0]
        raise FileError(path, "damaged", f"cannot be read as JSON ({reason})") from err
    content = content if isinstance(content, dict) else {"annotations": content}
    annotations = content.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    is_panoptic = isinstance(first, dict) and "segments_info" in first
    try:
        if is_panoptic:
            return _of_panoptic(path, _PanopticFile.model_validate(content))
        return _of_results(path, _ResultsFile.model_validate(content))
    except ValidationError as err:
        error = err.errors()[0]
        place = ".".join(map(str, error["loc"]))
        raise FileError(
            path,
            "format",
            f"{place}: {error['msg']} (holds {reprlib.repr(error['input'])}); expected COCO panoptic, or COCO results "
            "with run lengths (RLE)",
        ) from err


def _of_panoptic(path: Path, content: _PanopticFile) -> Masks:
    folder = path.with_suffix("")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; the PNG files of {path.name} are expected there")
    masks: Masks = {}
    for annotation in content.annotations:
        try:
            file = inside(folder, annotation.file_name)
        except ConfigError as err:
            raise FileError(path, "format", f"file_name {err}") from err
        sample_id = _without_suffix(annotation.file_name)
        if sample_id in masks:
            raise DataError(f"{path}: {annotation.file_name} is annotated twice; keep one of them")
        classes = {segment.id: segment.category_id for segment in annotation.segments_info}
        if len(classes) < len(annotation.segments_info):
            ids = [segment.id for segment in annotation.segments_info]
            doubled = next(own for own in ids if ids.count(own) > 1)
            raise FileError(path, "format", f"{annotation.file_name}: segment {doubled} is listed twice; keep one")
        _refuse_no_class(classes.values(), path, annotation.file_name)
        masks[sample_id] = Mask(str(file), partial(_read_panoptic, file, classes))
    return masks


def _refuse_no_class(category_ids: Iterable[int], path: Path, where: str) -> None:
    if IGNORE in category_ids:
        raise FileError(path, "id", f"{where}: category {IGNORE}, which stands for no class here; give it another id")


def _without_suffix(name: str) -> str:
    return Path(name).with_suffix("").as_posix()


def _read_panoptic(file: Path, classes: Mapping[int, int]) -> Ids:
    """Returns the class of each pixel's segment, 255 where there is none (black)."""
    red, green, blue = np.moveaxis(read_image(file).astype(np.int64), -1, 0)
    segment = red + 256 * green + 256**2 * blue
    ids, inverse = np.unique(segment, return_inverse=True)
    unknown = [own for own in ids.tolist() if own != 0 and own not in classes]
    if unknown:
        raise FileError(file, "id", f"holds segment {unknown[0]}, which segments_info does not list")
    return np.array([classes.get(own, IGNORE) for own in ids.tolist()])[inverse].reshape(segment.shape)


def _of_results(path: Path, content: _ResultsFile) -> Masks:
    names = {image.id: _without_suffix(image.file_name) for image in content.images}
    by_image: dict[str, list[_Result]] = {}
    for result in content.annotations:
        by_image.setdefault(names.get(result.image_id, str(result.image_id)), []).append(result)
    return {
        sample_id: Mask(f"{path}: image {sample_id}", partial(_read_results, path, sample_id, results))
        for sample_id, results in by_image.items()
    }


def _read_results(path: Path, sample_id: str, results: Sequence[_Result]) -> Ids:
    """Returns the class of each pixel, 255 where no mask is. Raises FileError where two masks overlap."""
    where = f"image {sample_id}"
    hw = results[0].segmentation.size
    if min(hw) < 1 or hw[0] * hw[1] > MAX_PIXELS:
        raise FileError(path, "format", f"{where}: run lengths of size {hw[0]}x{hw[1]}; expected at most 2^28 pixels")
    _refuse_no_class((result.category_id for result in results), path, where)
    out = np.full(hw, IGNORE, np.int64)
    for result in results:
        if result.segmentation.size != hw:
            raise FileError(path, "size", f"{where}: masks of sizes {hw} and {result.segmentation.size}; expected one")
        is_class = decode_run_lengths(result.segmentation, path, where)
        if (out[is_class] != IGNORE).any():
            raise FileError(
                path, "format", f"{where}: two masks overlap; expected one class per pixel, not single objects"
            )
        out[is_class] = result.category_id
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
    for char in text.encode():
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


def pair_masks(labels: Masks, predictions: Masks) -> list[tuple[str, str]]:
    """Pairs each prediction with its label; returns (label's id, prediction's id), sorted.

    Ids are compared whole; if that leaves a prediction without a label, by the last name of their paths; if that does
    too, as numbers (COCO's image 139 is 000000000139). Labels may be left over. Raises DataError naming the first
    prediction without a label, or two predictions with one.
    """
    for name_of in (_whole, _last_name, _number):
        by_name: dict[str, list[str]] = {}
        for label_id in labels:
            by_name.setdefault(name_of(label_id), []).append(label_id)
        label_ids = {own: by_name.get(name_of(own), []) for own in predictions}
        if all(len(ids) == 1 for ids in label_ids.values()):
            pairs = sorted((ids[0], own) for own, ids in label_ids.items())
            for (label_id, first), (next_id, second) in itertools.pairwise(pairs):
                if label_id == next_id:
                    raise DataError(
                        f"{predictions[second].where}: {predictions[first].where} has the same label, "
                        f"{labels[label_id].where}; keep one of them"
                    )
            return pairs
    without = [own for own in sorted(predictions) if own not in labels]
    raise DataError(
        f"{predictions[without[0]].where}: no label belongs to it, as for {len(without)} of {len(predictions)} "
        f"predictions; labels are named like '{min(labels)}': rename the files, or name the ends that differ with "
        "--label-suffix and --prediction-suffix"
    )


def _whole(sample_id: str) -> str:
    return sample_id


def _last_name(sample_id: str) -> str:
    return sample_id.rpartition("/")[2]


def _number(sample_id: str) -> str:
    name = _last_name(sample_id)
    return str(int(name)) if name.isascii() and name.isdecimal() else name
