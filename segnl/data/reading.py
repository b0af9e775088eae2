"""Decoders of images and of labels, by PIL; by tifffile for the kinds of TIFF that PIL does not read as stored.

PIL raises for a truncated file, where OpenCV may return a grey half; and it keeps the indices of a palette label, which
OpenCV turns into colours. OpenCV decodes the most usual image, an intact RGB PNG, to the same pixels in less time.
Neither image nor label is rotated by an EXIF orientation tag: PNG labels rarely carry
the tag, and rotating only the image would pair the wrong pixels.
"""

import io
import logging
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import COMPRESSION, TiffImageFile

from segnl.core.archives import bytes_of, is_file, is_folder, member_bytes, size_of
from segnl.core.arrays import Ids, Pixels
from segnl.core.errors import first_line
from segnl.data import tiff
from segnl.data.file_error import MAX_PIXELS, FileError, require_few_pixels, require_lossless, require_one_page
from segnl.data.png import plain_png_pixels, require_rows

for name in ("PIL", "tifffile"):
    logging.getLogger(name).setLevel(logging.CRITICAL)  # what they log, they also raise
warnings.filterwarnings("ignore", module=r"PIL\.")  # about damaged tags and large images
DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, RuntimeError, ArithmeticError),
    *(AttributeError, AssertionError, struct.error, zlib.error, cv2.error, Image.DecompressionBombError),
)
"""Exceptions of decoders for damaged bytes: mostly OSError and SyntaxError; RuntimeError of AVIF."""
DECODERS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")
"""PIL's formats that are read, whatever a file is called. Others may run programs: EPS starts Ghostscript."""
COLOURED = ("RGB", "RGBA", "LA", "PA")
"""PIL's modes of labels that are read as colours; the last band of all but the first must be constant."""


@dataclass(frozen=True)
class ImageFormat:
    """How the pixels of images become 8-bit channels.

    value_range: the stored values that become 0 and 255, those between in proportion, for images of more than 8 bits;
    None refuses such images. max_pixels: rows times columns. num_bands: 3 for RGB, which grey images become too; with
    another number an image must have as many.
    """

    value_range: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS
    num_bands: int = 3


DEFAULT_FORMAT = ImageFormat()


def read_image(path: Path, image_format: ImageFormat = DEFAULT_FORMAT) -> Pixels:
    """Decodes an image to RGB u8 `H W 3`, or `H W num_bands`, its pixels as stored (no EXIF rotation).

    Raises FileError for a file that is missing, empty, truncated or too large; that has more than 8 bits a channel,
    unless image_format says how to read them; a fourth band that is not constant; or several pages.
    """
    image = _decode(path, image_format.max_pixels, num_bands=image_format.num_bands)
    if isinstance(image, np.ndarray):
        return _channels(image, path, image_format)
    with _file_errors(path):  # such as more transparent colours than a palette has
        return rgb_pixels(image, path, image_format)


def rgb_pixels(image: Image.Image, path: Path, image_format: ImageFormat = DEFAULT_FORMAT) -> Pixels:
    """Returns the pixels of a decoded PIL image as `read_image` does. path: its file, and its name in messages.

    Raises FileError as `read_image` does.
    """
    if image.mode.startswith(("I", "F")) or image.info.get(_IS_DEEP):
        return _deep_pixels(image, path, image_format)
    if "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):  # of a PNG's or GIF's colours
        image = image.convert("RGBA")
    if image_format.num_bands != 3:
        modes = {"1": "L", "P": "RGB", "PA": "RGBA"}
        bands = np.array(image.convert(modes[image.mode]) if image.mode in modes else image)
        return _require_bands(bands if bands.ndim == 3 else bands[:, :, None], path, image_format.num_bands)
    return _rgb(image, path, "save it without that band, or set model.input.channels")


def _rgb(image: Image.Image, path: Path, advice: str) -> Pixels:
    """Returns RGB u8 `H W 3`. Raises FileError, which ends with `advice`, for a last band that is not constant."""
    if image.mode in ("RGBA", "RGBX", "LA", "PA"):
        lowest, highest = image.getchannel(len(image.getbands()) - 1).getextrema()
        if lowest != highest:
            detail = f"has mode {image.mode}, whose last band holds {lowest}..{highest}; expected RGB or grey: {advice}"
            raise FileError(path, "format", detail)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _deep_pixels(image: Image.Image, path: Path, image_format: ImageFormat) -> Pixels:
    """Returns the pixels of an image of more than 8 bits a channel, scaled from value_range to 0..255."""
    if image.mode.startswith(("I", "F")) and image.format != "JPEG2000":
        values = np.asarray(image, np.float32)
    else:  # PIL has kept the high bytes only, or scaled to 16 bits
        if image.format == "TIFF" and (orientation := exif_orientation(path)) != 1:
            detail = f"TIFF of more than 8 bits and orientation {orientation}, by which OpenCV would rotate it"
            raise FileError(path, "format", f"{detail}; save it without that tag")
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it prints beside the error
        try:
            stored = cv2.imdecode(np.frombuffer(bytes_of(path), np.uint8), cv2.IMREAD_UNCHANGED)
        except (cv2.error, FileNotFoundError):  # the latter of a PIL image without a file
            stored = None
        cv2.utils.logging.setLogLevel(level)
        if stored is None or stored.dtype != np.uint16 or stored.shape[2:] not in ((), (3,), (4,)):
            detail = "image of a depth that neither PIL nor OpenCV reads as stored"
            raise FileError(path, "format", f"{detail}; save it as 16-bit PNG")
        values = stored.astype(np.float32)
        values = values if values.ndim == 2 else values[..., [2, 1, 0, 3][: values.shape[2]]]  # OpenCV has blue first
    return _channels(values, path, image_format)


def _channels(values: npt.NDArray[Any], path: Path, image_format: ImageFormat) -> Pixels:
    """Returns stored values `H W` or `H W bands` as 8-bit channels; more than 8 bits are scaled from value_range."""
    if values.dtype == bool:
        values = values * np.uint8(255)
    if image_format.num_bands == 3 and values.ndim == 3 and values.shape[2] == 4 and np.ptp(values[..., 3]) == 0:
        values = values[..., :3]
    levels = values if values.dtype == np.uint8 else _levels(values, path, image_format)
    if levels.ndim == 2:
        levels = np.repeat(levels[:, :, None], 3 if image_format.num_bands == 3 else 1, axis=2)
    return _require_bands(np.ascontiguousarray(levels), path, image_format.num_bands)


def _levels(values: npt.NDArray[Any], path: Path, image_format: ImageFormat) -> Pixels:
    """Scales values from value_range to 0..255."""
    if image_format.value_range is None:
        detail = "image of more than 8 bits a channel; expected 8 bits a channel, or data.value_range, the values that"
        raise FileError(path, "format", f"{detail} become 0 and 255, such as [0, 4095] for 12 bits")
    lowest, highest = image_format.value_range
    if np.isnan(values).any():
        row, column = np.argwhere(np.isnan(values))[0, :2]
        detail = f"pixel (row {row}, column {column}) holds NaN; expected a number: write one into such pixels"
        raise FileError(path, "format", detail)
    return np.rint((values - lowest) * (255 / (highest - lowest))).clip(0, 255).astype(np.uint8)


def _require_bands(pixels: Pixels, path: Path, num_bands: int) -> Pixels:
    if pixels.shape[2] != num_bands:
        raise FileError(path, "format", f"image of {pixels.shape[2]} bands, but model.input.channels is {num_bands}")
    return pixels


def rgb_view(image: Pixels) -> Pixels:
    """Returns an image `H W bands` as RGB u8 `H W 3` for people: its first three bands, or its first one as grey."""
    return image[..., :3] if image.shape[2] > 2 else np.repeat(image[..., :1], 3, axis=2)


def read_label(path: Path, *, max_id: int = 255, max_pixels: int = MAX_PIXELS, allow_colours: bool = False) -> Ids:
    """Decodes a label to ids `H W`: grey and palette files of 8 bits, 1-bit ones as 0 and 1, 16-bit ones up to max_id.

    Returns u8, or u16 where max_id is above 255; of colours, if they are allowed, RGB u8 `H W 3`.

    Raises FileError for a file that is missing, empty or truncated, for colours, JPEG, and ids above max_id.
    """
    image = _decode(path, max_pixels, is_label=True)
    if isinstance(image, np.ndarray):
        return _require_ids(image, path, max_id)
    if allow_colours and image.mode in COLOURED and not image.info.get(_IS_DEEP):
        return _rgb(image, path, "give transparent pixels a colour of their own")
    if image.mode in (*COLOURED, "CMYK", "YCbCr"):
        detail = f"a colour-coded label (mode {image.mode}); expected one channel of class ids"
        raise FileError(path, "format", f"{detail}; data.label_map reads colours")
    if image.mode == "L" and image.info.get("grey_bits", 8) < 8:
        bits = image.info["grey_bits"]  # PIL scales the values of such a file: 0..15 become 0, 17 .. 255
        raise FileError(path, "format", f"label of {bits}-bit grey, whose values decoders rescale; save it as 8-bit")
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        raise FileError(path, "format", f"label of mode {image.mode}; expected 8-bit grey or palette")
    return _require_ids(np.asarray(image), path, max_id)


def _require_ids(values: npt.NDArray[Any], path: Path, max_id: int) -> Ids:
    """Returns stored values as ids `H W`. Raises FileError for bands, for numbers with a fraction and above max_id."""
    if values.ndim != 2 or values.dtype.kind not in "bui":
        detail = f"label of shape {list(values.shape)} and type {values.dtype}"
        raise FileError(path, "format", f"{detail}; expected 8-bit grey or palette")
    bad = (values < 0) | (values > max_id) if values.dtype.itemsize > 1 or values.dtype.kind == "i" else np.False_
    if bad.any():
        row, column = np.unravel_index(int(bad.argmax()), bad.shape)
        value = values[row, column]
        where = f"{8 * values.itemsize}-bit label; pixel (row {row}, column {column})"
        detail = f"{where} holds {value}, expected at most {max_id}: class ids, not instance ids or class * 1000"
        raise FileError(path, "format", detail)
    return values.astype(np.uint8 if max_id < 256 else np.uint16)


def read_colours(path: Path, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decodes a label of colours to RGB u8 `H W 3`; a palette's colours are taken, grey is as many in each channel.

    Raises FileError for a file that is missing, empty or truncated, for JPEG, and for other kinds.
    """
    image = _decode(path, max_pixels, is_label=True)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        return _channels(image, path, DEFAULT_FORMAT)
    if isinstance(image, np.ndarray) or image.info.get(_IS_DEEP):
        raise FileError(path, "format", "label of more than 8 bits a channel; save its colours with 8")
    if image.mode not in ("1", "L", "P", *COLOURED):
        raise FileError(path, "format", f"label of mode {image.mode}; expected RGB colours of 8 bits")
    return _rgb(image, path, "give transparent pixels a colour of their own")


def image_hw(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Reads rows and columns of an image from its header.

    Raises FileError for a file that is missing, no image, or too large.
    """
    with _file_errors(path), _opened(path) as image:
        if isinstance(image, TiffImageFile):
            tiff.keep_as_stored(image)
        width, height = image.size
    require_few_pixels(path, (height, width), max_pixels)
    return height, width


def palette_colours(path: Path, *, max_pixels: int = MAX_PIXELS) -> dict[int, tuple[int, int, int]]:
    """Returns the colour of each index that a palette label holds; nothing for others and for damaged ones."""
    try:
        with _opened(path) as image:
            if image.mode != "P":
                return {}
            require_few_pixels(path, (image.height, image.width), max_pixels)
            indices = np.flatnonzero(image.histogram()).tolist()
            levels = iter(image.getpalette() or [])
    except DECODER_ERRORS:
        return {}
    palette = list(zip(levels, levels, levels, strict=False))
    return {index: palette[index] for index in indices if index < len(palette)}


def exif_orientation(path: Path) -> int:
    """Returns 1 for pixels that are upright as stored; 2..8 for a tag, which is not applied."""
    try:
        with _opened(path) as image:
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DECODER_ERRORS:
        return 1


_IS_DEEP = "segnl_is_deep"
_PIL_LIMIT = threading.Lock()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Opens a file of any size, its pixels not decoded yet.

    PIL's own limit holds for the whole process; ours for a call.
    """
    packed = member_bytes(path)
    if packed is None and path.exists() and not path.is_file():
        raise OSError("a pipe, a device or a folder")
    Image.init()  # a build of PIL may lack some decoders
    formats = [name for name in DECODERS if name in Image.OPEN]
    with _PIL_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path if packed is None else io.BytesIO(packed), formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Raises FileError for whatever a decoder raises."""
    try:
        yield
    except FileNotFoundError as err:
        target = f", a link to {os.readlink(path)}, which is not there" if path.is_symlink() else ""
        raise FileError(path, "missing", f"no such file{target}") from err
    except UnidentifiedImageError as err:
        raise _unknown_image(path) from err
    except DECODER_ERRORS as err:
        if isinstance(err, OSError) and err.errno is not None:  # the system's own error, not a decoder's
            detail = f"cannot be read ({err.strerror}); check its permissions and the disk"
            raise FileError(path, "unreadable", detail) from err
        # One line, and without the path, which PIL repeats.
        reason = first_line(err).split(" '")[0]
        raise FileError(path, "damaged", f"cannot be decoded ({reason}); download or export it again") from err


def _decode(
    path: Path, max_pixels: int, *, num_bands: int = 3, is_label: bool = False
) -> Image.Image | npt.NDArray[Any]:
    """Opens and decodes a file to PIL's image, or to stored values `H W` or `H W bands`."""
    with _file_errors(path):
        size = size_of(path)
        if not is_file(path):
            kind = "a folder" if is_folder(path) else "a pipe or a device"
            raise FileError(path, "format", f"is {kind}; expected a file")
        if size == 0:
            raise FileError(path, "empty", "the file is empty; download or export it again")
        try:
            return _by_pil(path, max_pixels, num_bands, is_label=is_label)
        except (UnidentifiedImageError, KeyError):  # KeyError: a compression that PIL does not know
            if not tiff.is_tiff(path):
                raise
            return tiff.read_by_tifffile(path, max_pixels, num_bands, is_label=is_label)


def _by_pil(path: Path, max_pixels: int, num_bands: int, *, is_label: bool) -> Image.Image | Pixels:
    """Decodes a file by PIL, or an intact RGB PNG by OpenCV.

    Raises UnidentifiedImageError for what PIL does not open, and for a TIFF that it would not read as stored.
    """
    with _opened(path) as image:
        width, height = image.size
        require_few_pixels(path, (height, width), max_pixels)
        rawmode, max_value = _stored_as(image)
        bits = _bits(path, image.format)
        if image.format in ("BMP", "DIB") and (image.mode, bits) not in (("1", 1), ("L", 8)) and image.mode in "1L":
            raise FileError(path, "format", f"BMP of {bits} bits and a grey palette, misread by Pillow; save it as PNG")
        is_deep = ";16" in rawmode or max_value > 255 or (image.format in ("JPEG2000", "AVIF") and bits != 8)
        compression: int | str | None = image.format
        if num_bands <= tiff.MOST_BANDS_OF_PIL or not isinstance(image, TiffImageFile):
            require_one_page(path, _num_pages(image))
        if isinstance(image, TiffImageFile):
            if num_bands > tiff.MOST_BANDS_OF_PIL or not tiff.is_plain_tiff(image):
                raise UnidentifiedImageError
            compression = image.tag_v2.get(COMPRESSION, 1)
        if is_label:
            require_lossless(compression, path)
        elif num_bands == 3 and (image.format, image.mode, rawmode) == ("PNG", "RGB", "RGB"):
            pixels = plain_png_pixels(path)
            if pixels is not None:
                return pixels
        if isinstance(image, TiffImageFile):
            tiff.keep_as_stored(image)
        image.load()
    last_row = image.crop((0, height - 1, width, height))
    if image.format == "PNG" and ("interlace" in image.info or not np.asarray(last_row).any()):
        require_rows(path, image.size)
    full_scale = 65_535 if image.mode == "I" else 255  # to which PIL scales a grey PGM of another maximum
    if image.format == "PPM" and image.mode in ("L", "I") and max_value != full_scale and (is_label or is_deep):
        return np.rint(np.asarray(image) * (max_value / full_scale)).astype(np.uint16 if is_deep else np.uint8)
    image.info[_IS_DEEP] = is_deep
    if rawmode in ("L;2", "L;4"):
        image.info["grey_bits"] = int(rawmode[-1])
    return image


def _unknown_image(path: Path) -> FileError:
    """Returns the error for bytes that PIL does not know, which may be a TIFF that tifffile reads."""
    if tiff.is_tiff(path):
        detail = "a TIFF that only tifffile reads, such as one of more than 4 bands or of mixed depths"
        return FileError(path, "format", f"{detail}; set model.input.channels to the number of bands")
    return FileError(path, "damaged", "cannot be decoded (cannot identify image file); download or export it again")


def _stored_as(image: Image.Image) -> tuple[str, int]:
    """Returns PIL's word for how the pixels are stored, such as `RGB;16B`, and the largest value of a PPM's channel."""
    tile = getattr(image, "tile", None)
    arguments = tile[0][3] if tile else ""
    rawmode, *more = arguments if isinstance(arguments, tuple) else (arguments,)
    default = 65_535 if image.mode == "I" else 255
    return str(rawmode), int(more[0]) if image.format == "PPM" and more else default


def _num_pages(image: Image.Image) -> int:
    """Returns the number of pages or frames; a TIFF's previews and a phone's second picture in a JPEG do not count."""
    if isinstance(image, TiffImageFile):
        return tiff.num_pages(image)
    return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))


def _bits(path: Path, kind: str | None) -> int:
    """Returns the bits a pixel of a BMP, and those a channel of a JPEG 2000 (0 if signed or mixed) or AVIF; else 8."""
    data = bytes_of(path) if kind in ("BMP", "DIB", "JPEG2000", "AVIF") else b""
    if kind == "JPEG2000":  # after two markers 36 bytes, the number of channels, and three bytes for each
        start = data.find(b"\xff\x4f\xff\x51") + 40
        depths = {*data[start + 2 : start + 2 + 3 * int.from_bytes(data[start : start + 2]) : 3]}
        return 1 + min(depths) if len(depths) == 1 and min(depths) < 0x80 else 0
    if kind == "AVIF":  # in the third byte of the configuration: high_bitdepth, twelve_bit
        return 8 + 2 * (data[data.find(b"av1C") + 6] >> 5 & 3).bit_count()
    if not data:
        return 8
    start = 14 if kind == "BMP" else 0  # of the header, whose first number is its length
    return int.from_bytes(data[start + (10 if data[start] == 12 else 14) :][:2], "little")
