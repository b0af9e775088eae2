"""PNG files in memory. Imports no torch."""

import base64
from typing import Any

import cv2
from numpy.typing import NDArray

TALLEST = 8
"""Height of a picture of an image, at most, as a multiple of the width that pictures have: JPEG ends at 65,535."""


def picture_hw(hw: tuple[int, int], width: int) -> tuple[int, int]:
    """Returns rows and columns of an image's picture of this width; a narrower one for an image that is very tall."""
    rows, columns = hw
    if rows > TALLEST * columns:
        return TALLEST * width, max(1, round(TALLEST * width * columns / rows))
    return max(1, round(rows * width / columns)), width


def png(pixels: NDArray[Any]) -> bytes:
    """Encodes `H W` (8 or 16 bits), RGB `H W 3` or RGBA `H W 4` as the bytes of a PNG file."""
    if pixels.ndim == 3:  # OpenCV writes blue first
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    return cv2.imencode(".png", pixels)[1].tobytes()


def png_url(pixels: NDArray[Any]) -> str:
    """Returns `png(pixels)` as a data URL, for a page of one file."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")
