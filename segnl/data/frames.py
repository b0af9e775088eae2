"""Frames of clips: which images a network sees beside the labelled one, where data.frames is above 1."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from segnl.core.archives import text_lines
from segnl.core.arrays import Pixels
from segnl.core.find_files import find_files
from segnl.data.file_error import FileError
from segnl.data.groups import LIST_SUFFIXES, named_groups
from segnl.data.layout import IMAGE_SUFFIXES
from segnl.data.reading import ImageFormat, read_image


def neighbours_of(images: Mapping[str, Path], clips: Iterable[str], num_frames: int) -> dict[Path, tuple[Path, ...]]:
    """Returns the frames that a network sees for each image: the image, then its num_frames - 1 neighbours in order.

    images: paths by sample id. clips: the clip of each image. Frames follow each other in the order of their names,
    numbers by value. A clip's first and last frame stand for those beyond its ends.
    """
    members: dict[str, list[str]] = {}
    for sample_id, clip in zip(images, clips, strict=True):
        members.setdefault(clip, []).append(sample_id)
    reach = num_frames // 2
    offsets = [offset for offset in range(-reach, reach + 1) if offset]
    frames: dict[Path, tuple[Path, ...]] = {}
    for sample_ids in members.values():
        paths = [images[sample_id] for sample_id in sorted(sample_ids, key=_natural)]
        for place, path in enumerate(paths):
            places = [min(max(place + offset, 0), len(paths) - 1) for offset in offsets]
            frames[path] = path, *(paths[other] for other in places)
    return frames


def _natural(name: str) -> list[str | int]:
    return [int(word) if word.isdecimal() else word for word in re.split(r"(\d{1,999})", name)]


def frames_beside(
    image: Path, group: str | None, num_frames: int, *, lists: Path, is_image: Callable[[str], bool] = lambda _: True
) -> tuple[Path, ...]:
    """Returns what `neighbours_of` does for an image of no split; its clip are the images of its folder and group.

    group: in the words of data.group; None or `folder`: the whole folder; a pattern or a list with a `/` is of names
    with their folder. lists: the folder of a list.
    is_image: tells by a file's name whether it may be a frame, as labels may lie beside images.
    """
    paths = [
        path
        for path in find_files(image.parent, recursive=False)
        if path.suffix.lower() in IMAGE_SUFFIXES and is_image(path.name)
    ]
    names = {path.stem: path for path in paths} | {image.stem: image}
    if group in (None, "folder"):
        return neighbours_of(names, ["" for _ in names], num_frames)[image]
    is_list = group.endswith(LIST_SUFFIXES)
    if "/" in "".join(text_lines(lists / group, "lines of a sample and its group") if is_list else group):
        names = {f"{image.parent.name}/{name}": path for name, path in names.items()}
    if not is_list:  # other files may lie beside the clip
        names = {name: path for name, path in names.items() if path == image or re.match(group, name)}
    clips = named_groups(group, [*names], lists=lists) or [*names]
    return neighbours_of(names, clips, num_frames)[image]


def read_frames(paths: tuple[Path, ...], image_format: ImageFormat) -> Pixels:
    """Reads frames of one size, u8 `H W t*c`: the channels of the first, then those of the next. Raises FileError."""
    frames = [read_image(path, image_format) for path in paths]
    for path, frame in zip(paths, frames, strict=True):
        if frame.shape != frames[0].shape:
            (rows, columns), first = frame.shape[:2], frames[0].shape
            sizes = f"{rows}x{columns} pixels, but {paths[0].name} has {first[0]}x{first[1]}"
            raise FileError(path, "size", f"a frame of {sizes}; the frames of a clip need one size")
    return np.concatenate(frames, axis=2)
