"""Streets as files, in Cityscapes' official layout; an interrupted generation resumes.

leftImg8bit/SPLIT/CITY/CITY_NNNNNN_000019_leftImg8bit.png               RGB
gtFine/SPLIT/CITY/CITY_NNNNNN_000019_gtFine_{labelIds,instanceIds,color,ambiguous}.png
streets.json                                                            seed, size, counts, version

A clip of street NNNNNN has a file of each kind for each of its frames, the middle one numbered 000019.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segnl.core.archives import open_file
from segnl.core.arrays import Pixels
from segnl.core.errors import DataError, MachineError
from segnl.core.files import read_json, remove_leftovers, shell_word, write_atomic
from segnl.core.png import png
from segnl.labels.cityscapes import LABELS
from segnl.streets.scene import VERSION, Scene, render_clip, render_scene

CITIES = {"train": ("ahornau", "birkhain", "erlstadt", "fichtental"), "val": ("quellbach", "rosenfurt")}
AMBIGUOUS_END = "_gtFine_ambiguous.png"
MANIFEST = "streets.json"
LEAST_HW, MOST_HW = (64, 128), (2048, 4096)
MIDDLE_FRAME = 19
_END_CHUNK = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def generate(
    out: Path,
    *,
    num_train: int,
    num_val: int,
    hw: tuple[int, int] = (256, 512),
    seed: int = 0,
    num_frames: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes the data set below `out` and returns the number of new images; existing ones stay.

    num_frames: above 1, clips of so many frames in place of images (`render_clip`); an odd number, 9 at most.
    progress(done, total): called after each image. A later call may ask for more images, not for another seed or size.
    Raises DataError when `out` holds another data set or the size is out of range, MachineError when writing fails.
    """
    counts = {"train": num_train, "val": num_val}
    for split, count in counts.items():
        if count < 1:
            raise DataError(f"{out}: {count} images asked for split {split}; ask for at least 1")
    if num_frames % 2 == 0 or not 1 <= num_frames <= 9:
        raise DataError(f"{out}: {num_frames} frames asked for; expected an odd number from 1 to 9")
    wide = 2 if num_frames > 1 else 1  # a clip is cut out of a street of twice the width
    if not (LEAST_HW[0] <= hw[0] <= MOST_HW[0] and LEAST_HW[1] <= wide * hw[1] <= MOST_HW[1]):
        least, most = (f"{rows}x{columns // wide}" for rows, columns in (LEAST_HW, MOST_HW))
        kind = "clips of streets" if num_frames > 1 else "streets"
        raise DataError(f"{out}: size {hw[0]}x{hw[1]}; {kind} are made from {least} to {most} (rows x columns)")
    manifest = {"version": VERSION, "seed": seed, "hw": list(hw), **counts}
    manifest |= {"frames": num_frames} if num_frames > 1 else {}
    _require_same(out, manifest)
    _write_manifest(out, manifest, is_complete=False)
    images = [(split, index) for split, count in counts.items() for index in range(count)]
    folders: set[Path] = set()
    made = 0
    try:
        for done, (split, index) in enumerate(images, start=1):
            numbers = range(MIDDLE_FRAME - num_frames // 2, MIDDLE_FRAME + num_frames // 2 + 1)
            frames = [image_files(out, split, index, number) for number in numbers]
            folders |= {path.parent for paths in frames for path in paths.values()}
            if not all(_is_whole(path) for paths in frames for path in paths.values()):
                if num_frames == 1:
                    scenes = [render_scene(seed=seed, split=split, index=index, hw=hw)]
                else:
                    scenes = render_clip(seed=seed, split=split, index=index, hw=hw, num_frames=num_frames)
                for paths, scene in zip(frames, scenes, strict=True):
                    _write(paths, scene)
                made += 1
            if progress:
                progress(done, len(images))
        for folder in (out, *folders):
            remove_leftovers(folder)
        os.sync()  # once for all files: after a power cut the manifest must not exist without them
    except OSError as err:
        raise MachineError(
            f"{err.filename or out}: cannot be written ({err.strerror}); free some space or choose another place"
        ) from err
    _write_manifest(out, manifest, is_complete=True)
    return made


def image_files(out: Path, split: str, index: int, frame: int = MIDDLE_FRAME) -> dict[str, Path]:
    """Returns the five files of one image: image, labelIds, instanceIds, color, ambiguous."""
    city = CITIES[split][index % len(CITIES[split])]
    stem = f"{city}_{index:06d}_{frame:06d}"
    labels = out / "gtFine" / split / city
    return {
        "image": out / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png",
        "labelIds": labels / f"{stem}_gtFine_labelIds.png",
        "instanceIds": labels / f"{stem}_gtFine_instanceIds.png",
        "color": labels / f"{stem}_gtFine_color.png",
        "ambiguous": labels / f"{stem}{AMBIGUOUS_END}",
    }


def require_complete(root: Path) -> None:
    """Raises DataError unless `root` holds completely generated streets."""
    manifest = read_manifest(root)
    if not manifest.get("complete"):
        state = "its generation was interrupted" if manifest else f"no {MANIFEST}"
        raise DataError(f"{root}: {state}; run `segnl data streets --out {shell_word(root)}`, which resumes it")


def read_manifest(root: Path) -> dict[str, Any]:
    """Reads the settings that `root` was generated with; empty when it holds no streets."""
    try:
        manifest = read_json(root / MANIFEST)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as err:
        raise DataError(f"{root / MANIFEST}: cannot be read ({err}); delete the folder and generate it again") from err
    if not isinstance(manifest, dict) or not all(type(manifest.get(split, 0)) is int for split in CITIES):
        raise DataError(f"{root / MANIFEST}: was not written by segnl data; choose another folder")
    return manifest


def _require_same(out: Path, manifest: dict[str, Any]) -> None:
    existing = read_manifest(out)
    if not existing and any((out / name).exists() for name in ("leftImg8bit", "gtFine")):
        raise DataError(f"{out}: holds a data set that is not streets; choose another --out")
    remedy = "choose another --out or delete it"
    for key in ("version", "frames", "seed", "hw"):
        held, asked = (settings.get(key, 1) for settings in (existing, manifest))
        if existing and held != asked:
            raise DataError(f"{out}: holds streets of {key} {held}, not {asked}; {remedy}")
    for split in CITIES:
        if existing.get(split, 0) > manifest[split]:
            raise DataError(f"{out}: holds {existing[split]} {split} images, {manifest[split]} asked for; {remedy}")


def _write_manifest(out: Path, manifest: dict[str, Any], *, is_complete: bool) -> None:
    write_atomic(out / MANIFEST, (json.dumps({**manifest, "complete": is_complete}) + "\n").encode())


def _is_whole(path: Path) -> bool:
    """Whether a PNG has its last chunk; after a power cut a file may exist and be empty."""
    try:
        with open_file(path) as file:
            file.seek(-len(_END_CHUNK), os.SEEK_END)
            return file.read() == _END_CHUNK
    except OSError:
        return False


def _write(paths: dict[str, Path], scene: Scene) -> None:
    colours = np.array([(*label.colour, 255) for label in LABELS], np.uint8)  # by id; the licence plate is last
    pixels: dict[str, Pixels | NDArray[np.uint16]] = {
        "image": scene.image,
        "labelIds": scene.label_ids,
        "instanceIds": scene.instance_ids,
        "color": colours[scene.label_ids],
        "ambiguous": scene.ambiguous,
    }
    for kind, path in paths.items():
        try:
            write_atomic(path, png(pixels[kind]), is_synced=False)
        except MachineError:  # a second process has finished the data set and removed leftovers, or the disk is full
            if not _is_whole(path):
                raise
