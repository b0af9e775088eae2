"""Decoders of images and of labels, both by PIL.

PIL raises for a truncated file, where OpenCV silently returns a grey half; and it keeps the indices of a palette label,
which OpenCV turns into colours. Neither image nor label is rotated by an EXIF orientation tag: PNG labels rarely carry
the tag, and rotating only the image would pair the wrong pixels.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from segnl.core.arrays import Ids, Pixels
from segnl.core.errors import DataError

# Exceptions of PIL's decoders for damaged bytes: mostly OSError and SyntaxError.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error)


class FileError(DataError):
    """A file that cannot be used; the detail says what is wrong and what to do.

    kind: missing, empty, damaged, format, size or id.
    """

    def __init__(self, file: Path, kind: str, detail: str) -> None:
        super().__init__(f"{file}: {detail}")
        self.file = file
        self.kind = kind
        self.detail = detail

    def to_dict(self) -> dict[str, str]:
        """Returns plain values for JSON."""
        return {"file": str(self.file), "kind": self.kind, "detail": self.detail}


def read_image(path: Path) -> Pixels:
    """Decodes an image to RGB u8 `H W 3`, its pixels as stored (no EXIF rotation, alpha dropped).

    Raises FileError for a file that is missing, empty, truncated, or holds more than 8 bits a channel in one channel.
    """
    return rgb_pixels(_decode(path), path)


def rgb_pixels(image: Image.Image, path: Path) -> Pixels:
    """Returns the pixels of a PIL image, RGB u8 `H W 3`. path: its name in messages.

    Raises FileError for more than 8 bits a channel in one channel.
    """
    if image.mode.startswith(("I", "F")):
        raise FileError(path, "format", f"image of mode {image.mode}; expected 8 bits a channel: scale and save it so")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_label(path: Path, *, max_id: int = 255) -> Ids:
    """Decodes a label to ids `H W`: grey and palette files of 8 bits, 1-bit ones as 0 and 1, 16-bit ones up to max_id.

    Returns u8, or u16 where max_id is above 255.

    Raises FileError for a file that is missing, empty or truncated, for colours, JPEG, and ids above max_id.
    """
    image = _decode(path)
    _refuse_jpeg(image, path)
    if image.mode in ("RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr"):
        detail = (
            f"label of mode {image.mode}; expected one channel of class ids, not colours; data.label_map reads colours"
        )
        raise FileError(path, "format", detail)
    if image.mode == "L" and image.info.get("grey_bits", 8) < 8:
        bits = image.info["grey_bits"]  # PIL scales the values of such a file: 0..15 become 0, 17 .. 255
        raise FileError(path, "format", f"label of {bits}-bit grey, whose values decoders rescale; save it as 8-bit")
    dtype = np.uint8 if max_id < 256 else np.uint16
    if image.mode in ("1", "L", "P"):
        return np.array(image, dtype=dtype)
    if not image.mode.startswith("I"):
        raise FileError(path, "format", f"label of mode {image.mode}; expected 8-bit grey or palette")
    wide = np.asarray(image)
    bad = (wide < 0) | (wide > max_id)
    if bad.any():
        row, column = np.unravel_index(int(bad.argmax()), bad.shape)
        value = wide[row, column]
        detail = f"16-bit label; pixel (row {row}, column {column}) holds {value}, expected at most {max_id}"
        raise FileError(path, "format", f"{detail}: class ids, not instance ids or class * 1000")
    return wide.astype(dtype)


def read_colours(path: Path) -> Pixels:
    """Decodes a label of colours to RGB u8 `H W 3`; a palette's colours are taken, grey is as many in each channel.

    Raises FileError for a file that is missing, empty or truncated, for JPEG, and for other kinds.
    """
    image = _decode(path)
    _refuse_jpeg(image, path)
    if image.mode not in ("1", "L", "P", "RGB", "RGBA"):
        raise FileError(path, "format", f"label of mode {image.mode}; expected RGB colours of 8 bits")
    return np.array(image.convert("RGB"))


def _refuse_jpeg(image: Image.Image, path: Path) -> None:
    if image.format in ("JPEG", "MPO"):
        raise FileError(path, "format", "a JPEG label, and JPEG changes the values that it stores; export it as PNG")


def exif_orientation(path: Path) -> int:
    """Returns 1 for pixels that are upright as stored; 2..8 for a tag, which is not applied."""
    try:
        with Image.open(path) as image:
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DECODER_ERRORS:
        return 1


def _decode(path: Path) -> Image.Image:
    try:
        if path.stat().st_size == 0:
            raise FileError(path, "empty", "the file is empty; download or export it again")
        with Image.open(path) as image:
            rawmode = image.tile[0][3] if image.tile else ""
            rawmode = rawmode[0] if isinstance(rawmode, tuple) else rawmode
            image.load()
    except FileNotFoundError as err:
        raise FileError(path, "missing", "no such file") from err
    except Image.DecompressionBombError as err:
        raise FileError(path, "format", f"too large to decode ({err}); cut it into tiles") from err
    except _DECODER_ERRORS as err:
        # One line, and without the path, which PIL repeats.
        reason = str(getattr(err, "strerror", None) or err or type(err).__name__).splitlines()[0].split(" '")[0]
        raise FileError(path, "damaged", f"cannot be decoded ({reason}); download or export it again") from err
    if rawmode in ("L;2", "L;4"):
        image.info["grey_bits"] = int(rawmode[-1])
    return image
