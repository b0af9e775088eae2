"""`segnl denoise`: non-local means on image files."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import ExifTags, Image

from segnl.core.arrays import Pixels
from segnl.core.errors import ConfigError, DataError
from segnl.core.files import ensure_writable, write_atomic
from segnl.core.limits import require_memory
from segnl.core.outputs import marked, require_own
from segnl.core.progress import Progress
from segnl.data.file_error import FileError
from segnl.data.reading import DECODER_ERRORS, exif_orientation, read_image
from segnl.ops.non_local_means import Centre, PatchKernel, non_local_means

QUALITY: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}
"""How formats are written that would lose more by PIL's defaults."""


@dataclass(frozen=True)
class DenoiseSettings:
    """Settings of the filter; `non_local_means` explains them."""

    strength: float
    patch: int = 7
    search: int | None = 21
    kernel: PatchKernel = "uniform"
    centre: Centre = "self"

    def apply(self, pixels: Pixels) -> Pixels:
        """Filters u8 `H W c`. Raises ValueError for settings that do not fit."""
        image = torch.from_numpy(pixels).movedim(-1, 0)[None].float() / 255  # 1 3 H W
        image = non_local_means(image, **asdict(self))
        return (image[0] * 255).round().clamp(0, 255).byte().movedim(0, -1).contiguous().numpy()


def denoise_files(images: Sequence[Path], out: Path, settings: DenoiseSettings) -> None:
    """Writes the filtered images into the folder `out` under their own names, in their own formats.

    Grey images stay grey. Orientation tags and colour profiles are kept. Formats are written without loss, but for JPEG
    and AVIF (QUALITY), and GIF, which holds 256 colours.

    Raises ConfigError for settings that do not fit, two images of one name, or an output that would overwrite an input
    or a file that `denoise` did not write; DataError for files that are no images of 8 bits a channel.
    """
    targets: dict[Path, Path] = {}
    inputs = {path.resolve() for path in images}
    for path in images:
        target = out / path.name
        if target.resolve() in inputs:
            raise ConfigError(f"{target}: an input, which would be overwritten; choose another folder for --out")
        if target in targets:
            raise ConfigError(
                f"{path}: its result would overwrite that of {targets[target]}; give --out another folder"
            )
        require_own(target, "denoise", option="--out")
        targets[target] = path
    ensure_writable(out)
    with Progress("denoise", len(images), unit="image") as progress:
        for target, path in targets.items():
            _denoise_file(path, target, settings)
            progress.advance()


def _denoise_file(path: Path, target: Path, settings: DenoiseSettings) -> None:
    try:
        pixels = read_image(path)
    except FileError as err:  # a recipe's key is no option here
        raise FileError(path, err.kind, err.detail.partition(", or data.value_range")[0]) from err
    try:
        with Image.open(path) as source:
            kept: dict[str, Any] = {key: source.info[key] for key in ("exif", "icc_profile") if key in source.info}
            # MPO is a camera's JPEG with more images behind it.
            kind = "JPEG" if source.format == "MPO" else source.format
            if kind == "TIFF":
                kept["tiffinfo"] = {ExifTags.Base.Orientation: exif_orientation(path)}
            if source.mode in ("1", "L", "LA"):
                pixels = pixels[..., :1]
    except DECODER_ERRORS as err:  # a TIFF that tifffile alone reads
        raise DataError(f"{path}: a kind of TIFF that is not written; convert the image to PNG or JPEG") from err
    if settings.search is None:
        require_memory(f"{path}: --search whole", pixels.size * (settings.patch**2 + 1) * 4.0)
    try:
        filtered = settings.apply(pixels)
    except ValueError as err:
        raise ConfigError(f"{path}: {err}") from err
    result = Image.fromarray(filtered[..., 0] if filtered.shape[-1] == 1 else filtered)
    encoded = io.BytesIO()
    try:
        result.save(encoded, format=kind, **kept, **QUALITY.get(kind or "", {}))
    except (OSError, ValueError, KeyError) as err:
        raise DataError(f"{path}: {kind} cannot be written ({err}); convert the image to PNG or JPEG") from err
    write_atomic(target, marked(encoded.getvalue(), "denoise"))
