"""Camera effects, the last step of a street: texture, light, blur and noise, in integers."""

import cv2
import numpy as np
from numpy.typing import NDArray

from segnl.core.arrays import Pixels
from segnl.streets.canvas import Draws


def finish(image: Pixels, grain: Pixels, draws: Draws) -> Pixels:
    """Adds camera effects to `image` u8 `H W 3`. grain: u8 `H W`, strength of the texture of each pixel's surface."""
    texture = _texture(grain, draws)
    lit = []
    for plane, factor in zip(cv2.split(image), _gains(grain.shape, draws), strict=True):  # planes are fast to process
        rough = np.clip(plane + texture, 0, 255).astype(np.uint16)
        rough *= factor
        rough >>= 7
        lit.append(np.minimum(rough, 255).astype(np.uint8))
    soft = np.asarray(cv2.merge(lit), np.uint8)
    for _ in range(draws.pick((0, 1, 1, 2))):
        soft = blur(soft)
    most = draws.pick((3, 7, 7, 15))
    noise = draws.bytes(grain.shape[0], grain.shape[1] * 3).reshape(soft.shape) & np.uint8(most)
    return np.asarray(cv2.subtract(cv2.add(soft, noise), np.full_like(noise, most // 2 + 1)), np.uint8)  # both saturate


def blur(image: Pixels) -> Pixels:
    """Convolves with 1 2 1 over rows and columns, rounded once, halves upwards; the border is repeated."""
    return np.asarray(cv2.GaussianBlur(image, (3, 3), 0, borderType=cv2.BORDER_REPLICATE), np.uint8)


def _texture(grain: Pixels, draws: Draws) -> NDArray[np.int16]:
    """Draws speckle of one pixel and blotches of about 3 and 8 pixels (of 256 rows), i16 `H W`, +-3/8 of the grain."""
    height, width = grain.shape
    total = draws.bytes(height, width).astype(np.int16)
    for cell in (max(2, height * 3 // 256), max(3, height * 8 // 256)):
        coarse = draws.bytes(height // cell + 1, width // cell + 1).astype(np.int16)
        total += coarse.repeat(cell, axis=0)[:height].repeat(cell, axis=1)[:, :width]
    total -= 382
    total >>= 3  # now +-48, so that 16 bits hold the product with any grain
    total *= grain.astype(np.int16)
    total >>= 7
    return total


def _gains(hw: tuple[int, ...], draws: Draws) -> list[NDArray[np.uint16]]:
    """Draws exposure, warmth and uneven light: gains in 128ths `H W` for red, green and blue."""
    height, width = hw
    exposure = draws.between(190, 280)
    warmth = draws.between(-14, 14)
    knots = np.array([[draws.between(226, 282) for _ in range(3)] for _ in range(2)], np.int32)
    column = np.arange(width, dtype=np.int32) * 512 // max(1, width - 1)
    index = np.minimum(column >> 8, 1)
    part = column - (index << 8)
    rows = (knots[:, index] * (256 - part) + knots[:, index + 1] * part) >> 8  # 2 W
    row = (np.arange(height, dtype=np.int32) * 256 // max(1, height - 1))[:, None]
    gain = ((rows[:1] * (256 - row) + rows[1:] * row) >> 8).astype(np.uint16)  # H W
    # At most 282 * 147 >> 8 = 161, so that 16 bits hold its product with a colour.
    return [gain * np.uint16((exposure + tilt) // 2) >> 8 for tilt in (warmth, 0, -warmth)]
