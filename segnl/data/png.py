"""Parts of PNG that PIL does not check, and the fast decoder of the most usual image."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from segnl.core.archives import bytes_of
from segnl.core.arrays import Pixels

_PLAIN_CHUNKS = {b"IHDR", b"IDAT", b"pHYs", b"gAMA", b"sRGB", b"tIME", b"tEXt", b"IEND"}
"""Chunks that do not change the pixels, and of which libpng prints no warnings."""


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Yields kind and content of each chunk of a PNG, and True where its checksum is right."""
    view, start, kind = memoryview(data), 8, b""
    while start < len(data) and kind != b"IEND":
        end = start + 8 + int.from_bytes(view[start : start + 4])  # of the chunk's content; its checksum follows
        kind = bytes(view[start + 4 : start + 8])
        yield kind, view[start + 8 : end], zlib.crc32(view[start + 4 : end]) == int.from_bytes(view[end : end + 4])
        start = end + 4


def plain_png_pixels(path: Path) -> Pixels | None:
    """Decodes an 8-bit RGB PNG by OpenCV; None for one that is damaged or has unusual chunks, where PIL decides."""
    data, kind = bytes_of(path), b""
    for kind, _, is_right in _png_chunks(data):
        if kind not in _PLAIN_CHUNKS or not is_right:
            return None
    if kind != b"IEND":
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # beyond OpenCV's own limit of pixels
        return None
    return None if decoded is None else np.asarray(decoded, np.uint8)


_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row and their steps of the passes of an interlaced PNG."""


def require_rows(path: Path, size: tuple[int, int]) -> None:
    """Raises OSError for a PNG whose stream ends before its last row. PIL leaves the rows that it lacks 0.

    size: as PIL has found it, columns first.
    """
    data = bytes_of(path)
    width, height, bits, colour, _, _, is_interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if data[12:16] != b"IHDR" or (width, height) != size:
        raise OSError("its header is not the first chunk, or not the only one")
    bits *= {2: 3, 4: 2, 6: 4}.get(colour, 1)
    num_bytes = 0
    for x, y, x_step, y_step in _ADAM7 if is_interlaced else ((0, 0, 1, 1),):
        columns, rows = len(range(x, width, x_step)), len(range(y, height, y_step))
        num_bytes += rows * (1 + -(-columns * bits // 8)) if columns else 0
    stream = b"".join(content for kind, content, _ in _png_chunks(data) if kind == b"IDAT")
    if len(zlib.decompressobj().decompress(stream, num_bytes)) < num_bytes:
        raise OSError("rows are missing")
