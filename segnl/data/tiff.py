"""TIFF: which files PIL reads as stored, and the decoder, tifffile, of the others."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    EXTRASAMPLES,
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    STRIPBYTECOUNTS,
    STRIPOFFSETS,
    TILEBYTECOUNTS,
    TILEOFFSETS,
    TiffImageFile,
)

from segnl.core.archives import bytes_of, open_file
from segnl.core.errors import MachineError, first_line
from segnl.core.extras import import_extra
from segnl.data.file_error import FileError, require_few_pixels, require_lossless, require_one_page
from segnl.data.lzw import require_lzw

MOST_BANDS_OF_PIL = 4
PLAIN_TIFFS = {
    # Grey, where 0 is black; then signed integers and floats.
    *((1, 1, bits, 1, ()) for bits in (1, 2, 4, 8, 12, 16)),
    *((1, 1, bits, sample_format, ()) for bits, sample_format in ((16, 2), (32, 2), (32, 3))),
    # Palette; RGB; RGB and a band that multiplies no other.
    *((3, 1, bits, 1, ()) for bits in (1, 2, 4, 8)),
    *((2, 3, bits, 1, ()) for bits in (8, 16)),
    *((2, 4, bits, 1, extra) for bits in (8, 16) for extra in ((), (2,))),
    # Grey or palette and such a band; CMYK; YCbCr.
    *((1, 2, 8, 1, (2,)), (3, 2, 8, 1, (2,)), (5, 4, 8, 1, ()), (6, 3, 8, 1, ())),
}
"""TIFFs that PIL and OpenCV read as stored: photometric interpretation, bands, bits, sample format, extra samples."""
MAX_PAGES = 1000
NEW_SUBFILE_TYPE, REDUCED_OR_MASK = 254, 0b101
"""Tag of a page that is a smaller version or a mask of another, and the bits that say so."""
YCBCR, JPEG_COMPRESSIONS, LZW = 6, (6, 7), 5


def read_by_tifffile(path: Path, max_pixels: int, num_bands: int, *, is_label: bool) -> npt.NDArray[Any]:
    """Decodes a TIFF to its stored values `H W` or `H W bands` (the extra `tiff`). Raises FileError, OSError."""
    try:
        tifffile = import_extra("tifffile", "tiff", "a TIFF of a kind that needs tifffile, which is not installed")
    except MachineError as err:
        raise FileError(path, "format", f"{err}; or save it as PNG or plain TIFF") from err
    try:
        data = bytes_of(path)
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            pictures = [series for series in tiff.series if not series.keyframe.subfiletype & REDUCED_OR_MASK]
            require_one_page(path, len(pictures))
            shape, axes, page = pictures[0].shape, pictures[0].axes, pictures[0].keyframe
            if page.photometric > 2 or page.dtype.kind not in "buif" or 1 < page.bitspersample < 8:
                kind = f"interpretation {page.photometric:d}, {page.bitspersample} bits and type {page.dtype}"
                raise FileError(path, "format", f"a TIFF of {kind}; save it as grey or RGB of 8, 16 or 32 bits")
            if is_label:
                require_lossless(int(page.compression), path)
            hw = (page.imagelength, page.imagewidth)
            if axes == "QYX" and shape[2] == num_bands:  # tifffile has written an array `H W bands` as H pages
                hw, axes = shape[:2], "YXQ"
            require_few_pixels(path, hw, max_pixels)
            if len(shape) > 3 or math.prod(shape) > math.prod(hw) * max(num_bands, MOST_BANDS_OF_PIL):
                detail = f"image of shape {list(shape)}, but model.input.channels is {num_bands}"
                raise FileError(path, "format", f"{detail}; expected one picture with that many bands")
            num_values = page.imagelength * page.imagewidth * page.samplesperpixel * len(pictures[0])
            if math.prod(shape) != num_values or page.planarconfig not in (1, 2):  # tifffile would read other memory
                raise FileError(
                    path, "damaged", "its tags do not agree on the number or order of its bands; export it again"
                )
            has_all = all(page is not None for page in pictures[0]) and len(page.dataoffsets) >= math.prod(page.chunked)
            if not has_all or math.prod(page.tile or ()) > 4 * max_pixels:
                raise FileError(path, "damaged", "planes, tiles or strips are missing; export it again")
            if page.compression == LZW:
                if page.fillorder != 1:
                    raise FileError(path, "format", "a TIFF of LZW with reversed bits; save it without compression")
                for own in pictures[0]:
                    for start, count in zip(own.dataoffsets, own.databytecounts, strict=True):
                        require_lzw(data[start : start + count])
            values = pictures[0].asarray()
    except (tifffile.TiffFileError, MemoryError) as err:
        raise OSError(first_line(err)) from err
    if values.ndim == 3:  # adjacent bands, or one after the other
        values = np.moveaxis(values, next(i for i, axis in enumerate(axes) if axis not in "YX"), 2)
    return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values


def is_plain_tiff(image: TiffImageFile) -> bool:
    """Tells whether PIL reads a TIFF as stored: its kind, the order of its bands, and no tile or strip that is missing.

    PIL takes 8 bits for the planes of more, and the bytes at offset 0 for those of a hole.
    """
    tags = image.tag_v2
    photometric, num_bands = tags.get(PHOTOMETRIC_INTERPRETATION), tags.get(SAMPLESPERPIXEL, 1)
    bits, sample_formats = {*tags.get(BITSPERSAMPLE, (1,))}, {*tags.get(SAMPLEFORMAT, (1,))}  # of each band
    kind = (photometric, num_bands, *bits, *sample_formats, tags.get(EXTRASAMPLES, ()))
    is_planar = tags.get(PLANAR_CONFIGURATION, 1) != 1
    if kind not in PLAIN_TIFFS or (is_planar and kind not in ((1, 1, 8, 1, ()), (2, 3, 8, 1, ()))):
        return False
    if photometric == YCBCR and tags.get(COMPRESSION) not in JPEG_COMPRESSIONS:
        return False
    if 0 in (n for tag in (STRIPOFFSETS, STRIPBYTECOUNTS, TILEOFFSETS, TILEBYTECOUNTS) for n in tags.get(tag, ())):
        return False
    extents = (tile[1] or (0, 0, 0, 0) for tile in image.tile)
    areas = [(right - left) * (lower - upper) for left, upper, right, lower in extents]
    num_planes = len(image.getbands()) if is_planar and image.tile[0][0] != "libtiff" else 1
    return sum(areas) >= num_planes * math.prod(image.size)


def keep_as_stored(image: TiffImageFile) -> None:
    """Keeps PIL from rotating a TIFF by its orientation tag, which it does for this format alone."""
    image.getexif()[ExifTags.Base.Orientation] = 1
    image._size = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]


def is_tiff(path: Path) -> bool:
    """Tells a TIFF or BigTIFF by its first bytes."""
    with open_file(path) as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def num_pages(image: TiffImageFile) -> int:
    """Returns the number of pages of a TIFF; previews and masks do not count.

    Raises OSError for more than MAX_PAGES: PIL's own count takes a time that grows with the square.
    """
    pages = 0
    for frame in range(MAX_PAGES):
        try:
            image.seek(frame)
        except EOFError:
            image.seek(0)
            return max(1, pages)
        pages += not image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & REDUCED_OR_MASK
    raise OSError(f"more than {MAX_PAGES:,} pages")
