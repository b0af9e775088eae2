"""Generated clips whose class depends on two far moments and places: does the object come back in the same colour?

An object leaves the picture on the left in the first frames. In the last frames an object enters on the right. The
class is 1 if both have the same colour, else 0. Each colour is equally likely at both moments, whatever the class, so
neither moment alone says anything about it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segnl.core.seeds import seed_for

FRAMES, SIDE_PX = 16, 16
VISIBLE = 3
"""Frames at the beginning, and at the end, that show an object."""
COLOURS = np.array([[230, 60, 60], [60, 200, 70], [70, 90, 235]], np.float32)
_RADIUS_PX = 3
_NOISE = 12.0


@dataclass(frozen=True)
class Clips:
    """Clips u8 `n 3 t H W`, their classes i64 `n`, and the objects' centres i64 `n 2 VISIBLE 2` (row, column).

    The second axis of `centres` is the leaving and the entering object.
    """

    frames: npt.NDArray[np.uint8]
    label: npt.NDArray[np.int64]
    centres: npt.NDArray[np.int64]


def make_clips(num: int, *purpose: int | str) -> Clips:
    """Draws `num` clips; a function of the words of `purpose` only, such as (seed, "train", step)."""
    rng = np.random.default_rng(seed_for("clips", *purpose))
    label = rng.integers(2, size=num)
    first = rng.integers(len(COLOURS), size=num)
    other = (first + rng.integers(1, len(COLOURS), size=num)) % len(COLOURS)
    colours = np.stack([first, np.where(label == 1, first, other)], axis=1)  # n 2
    rows = rng.integers(_RADIUS_PX, SIDE_PX - _RADIUS_PX, size=(num, 2))
    background = rng.uniform(80, 150, size=(num, 1, 1, 1, 1)).astype(np.float32)
    frames = background + _NOISE * rng.standard_normal((num, 3, FRAMES, SIDE_PX, SIDE_PX), np.float32)
    steps = np.arange(VISIBLE) * 2
    columns = np.stack([5 - steps, SIDE_PX - 2 - steps])  # to the left, out of the picture and into it
    centres = np.empty((num, 2, VISIBLE, 2), np.int64)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    for which, start in enumerate((0, FRAMES - VISIBLE)):
        colour = COLOURS[colours[:, which]] + rng.normal(0, 10, size=(num, 3))
        for step in range(VISIBLE):
            column = columns[which, step]
            inside = (y - rows[:, which, None, None]) ** 2 + (x - column) ** 2 <= _RADIUS_PX**2  # n H W
            frame: npt.NDArray[Any] = frames[:, :, start + step]
            np.copyto(frame, colour[:, :, None, None], where=inside[:, None])
            centres[:, which, step] = np.stack([rows[:, which], np.full(num, column)], axis=1)
    return Clips(frames.clip(0, 255).astype(np.uint8), label, centres)
