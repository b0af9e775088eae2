"""Painting tools of Streets: random draws, a camera, and a canvas of colours and surfaces.

Axes: `H W` image rows and columns. Results are the same on every machine: the draws are PCG64's raw words (numpy
guarantees these, not the distributions over them), the arithmetic is integer or plain IEEE, the polygons have integer
corners and no anti-aliasing.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import cv2
import numpy as np

from segnl.core.arrays import Pixels
from segnl.streets.pairs import Colour

Item = TypeVar("Item")
Points = Sequence[tuple[int, int]]


class Draws:
    """Random integers from PCG64's raw words."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)
        self._words: list[int] = []

    def below(self, count: int) -> int:
        """Draws 0 to count - 1."""
        if not self._words:
            self._words = self._bits.random_raw(256).tolist()
        return (self._words.pop() >> 11) % count

    def between(self, low: int, high: int) -> int:
        """Draws low to high, both included."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        return self.below(100) < percent

    def pick(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        out = list(items)
        for last in range(len(out) - 1, 0, -1):
            other = self.below(last + 1)
            out[last], out[other] = out[other], out[last]
        return out

    def near(self, colour: Colour, spread: int) -> Colour:
        """Shifts a colour as a whole and a little in each channel."""
        shift = self.between(-spread, spread)
        return _colour(channel + shift + self.between(-spread // 3, spread // 3) for channel in colour)

    def bytes(self, rows: int, columns: int) -> Pixels:
        """Draws u8 `rows columns`."""
        words = self._bits.random_raw((rows * columns + 7) // 8)
        return words.astype("<u8").view(np.uint8)[: rows * columns].reshape(rows, columns)


@dataclass(frozen=True)
class Box:
    """Pixel columns x0..x1 and rows y0..y1, both ends included."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def centre(self) -> tuple[int, int]:
        """Column, row."""
        return (self.x0 + self.x1) // 2, (self.y0 + self.y1) // 2

    @property
    def area(self) -> int:
        return max(0, self.x1 - self.x0 + 1) * max(0, self.y1 - self.y0 + 1)

    def grown(self, by: int) -> "Box":
        return Box(self.x0 - by, self.y0 - by, self.x1 + by, self.y1 + by)

    def overlap(self, other: "Box") -> int:
        """Counts the pixels in both boxes."""
        return Box(max(self.x0, other.x0), max(self.y0, other.y0), min(self.x1, other.x1), min(self.y1, other.y1)).area

    def at(self, x: int, y: int) -> tuple[int, int]:
        """Returns the pixel (column, row) at thousandths of the box's width and height."""
        return self.x0 + (self.x1 - self.x0) * x // 1000, self.y0 + (self.y1 - self.y0) * y // 1000

    def inner(self, x0: int, y0: int, x1: int, y1: int) -> "Box":
        """Returns the box between two points given in thousandths of this one."""
        return Box(*self.at(x0, y0), *self.at(x1, y1))


@cache
def corners(outline: str) -> Points:
    """Parses an outline "x,y x,y ..." in thousandths of a box, written as SVG's `points`."""
    pairs = (pair.split(",") for pair in outline.split())
    return tuple((int(x), int(y)) for x, y in pairs)


def nearest(value: float) -> int:
    """Rounds to an integer, halves upwards."""
    return int((value + 0.5) // 1)


@dataclass(frozen=True)
class Camera:
    """A driver's view along the street; converts metres to pixels.

    hw: image rows, columns. vanish_xy: where the street meets the horizon. unit: pixels here for one in 256x512.
    """

    hw: tuple[int, int]
    vanish_xy: tuple[int, int]
    unit: float
    height_m: float = 1.6

    @property
    def focal_px(self) -> float:
        return 300.0 * self.unit

    def px(self, pixels_at_256: float) -> int:
        """Scales a length of a 256x512 image to this one, at least 1."""
        return max(1, nearest(pixels_at_256 * self.unit))

    def point(self, side_m: float, up_m: float, ahead_m: float) -> tuple[int, int]:
        """Projects a point right of, above and ahead of the camera's foot to (column, row)."""
        scale = self.focal_px / ahead_m
        column = int((self.vanish_xy[0] + side_m * scale + 0.5) // 1)  # `nearest`, called thousands of times
        row = int((self.vanish_xy[1] + (self.height_m - up_m) * scale + 0.5) // 1)
        return column, row

    def upright(self, side_m: float, low_m: float, high_m: float, near_m: float, far_m: float) -> Points:
        """Returns the corners of an upright rectangle along the street."""
        ends = ((low_m, near_m), (high_m, near_m), (high_m, far_m), (low_m, far_m))
        return [self.point(side_m, up_m, ahead_m) for up_m, ahead_m in ends]

    def ground(self, inner_m: float, outer_m: float, near_m: float, far_m: float) -> Points:
        """Returns the corners of a strip of ground along the street, between two distances from its middle."""
        ends = ((inner_m, near_m), (inner_m, far_m), (outer_m, far_m), (outer_m, near_m))
        return [self.point(side_m, 0, ahead_m) for side_m, ahead_m in ends]

    def front(self, side_m: float, ahead_m: float, width_m: float, height_m: float, up_m: float = 0.0) -> Box:
        """Projects an upright rectangle that faces the camera, centred on side_m, up_m above the ground."""
        left, top = self.point(side_m - width_m / 2, up_m + height_m, ahead_m)
        right, bottom = self.point(side_m + width_m / 2, up_m, ahead_m)
        return Box(left, top, right, bottom)

    def ahead_of_row(self, row: int) -> float:
        """Returns the distance ahead of the ground in an image row below the horizon."""
        return self.height_m * self.focal_px / max(1, row - self.vanish_xy[1])

    def side_of_column(self, column: int, ahead_m: float) -> float:
        return (column - self.vanish_xy[0]) * ahead_m / self.focal_px


@dataclass(frozen=True)
class Surface:
    """An owner of pixels. name: a Cityscapes class; empty where a cue decides. grain: strength of its texture, 0..255.

    placement: 1.. for the ambiguous object of that number, else 0.
    """

    name: str
    grain: int
    placement: int = 0


def _colour(channels: Iterable[int]) -> Colour:
    red, green, blue = (min(255, max(0, channel)) for channel in channels)
    return red, green, blue


def colours(text: str) -> tuple[Colour, ...]:
    """Parses colours "red,green,blue red,green,blue ..."."""
    return tuple(_colour(map(int, colour.split(","))) for colour in text.split())


def mix(first: Colour, second: Colour, parts: int) -> Colour:
    """Moves `first` by `parts` 256ths towards `second`."""
    return _colour((a * (256 - parts) + b * parts) >> 8 for a, b in zip(first, second, strict=True))


def shade(colour: Colour, percent: int) -> Colour:
    """Darkens below 100 percent, lightens above."""
    return _colour(channel * percent // 100 for channel in colour)


class Canvas:
    """Colours u8 `H W 3` and the number of each pixel's surface, u16 `H W`.

    Classes are unknown while painting: an ambiguous surface is a number, so its look cannot depend on its class.
    """

    def __init__(self, hw: tuple[int, int]) -> None:
        self.image = np.zeros((*hw, 3), np.uint8)
        self.owner = np.zeros(hw, np.uint16)
        self.surfaces: list[Surface] = []
        self._stuff: dict[str, int] = {}

    def stuff(self, name: str, grain: int = 40) -> int:
        """Returns the surface shared by all objects of a class without instances."""
        if name not in self._stuff:
            self._stuff[name] = self.add(Surface(name, grain))
        return self._stuff[name]

    def thing(self, name: str) -> int:
        """Adds a surface for one instance, such as one car."""
        return self.add(Surface(name, grain=24))

    def add(self, surface: Surface) -> int:
        """Adds a surface and returns its number."""
        self.surfaces.append(surface)
        return len(self.surfaces) - 1

    def _draw(
        self, draw: Callable[..., Any], shape: Sequence[Any], colour: Colour | None, surface: int | None, **how: Any
    ) -> None:
        """Draws a shape on the image and on the owners; a colour or surface of None leaves that one as it is."""
        for pixels, value in ((self.image, colour), (self.owner, surface)):
            if value is not None:
                draw(pixels, *shape, value, lineType=cv2.LINE_8, **how)

    def paint(self, shapes: Sequence[Points], colour: Colour | None, surface: int | None = None) -> None:
        """Fills polygons that do not overlap.

        Without a surface only the colour changes (windows, marks), without a colour only the label.
        """
        polygons = [np.array(shape, np.int32).reshape(-1, 1, 2) for shape in shapes]
        self._draw(cv2.fillPoly, [polygons], colour, surface)

    def polygon(self, shape: Points, colour: Colour | None, surface: int | None = None) -> None:
        """Fills one polygon as `paint` does."""
        self.paint([shape], colour, surface)

    def shape(self, box: Box, outline: str, colour: Colour, surface: int | None = None) -> None:
        """Fills a polygon whose outline `corners` reads: "x,y x,y ..." in thousandths of a box."""
        self.paint([[box.at(x, y) for x, y in corners(outline)]], colour, surface)

    def box(self, box: Box, colour: Colour, surface: int | None = None) -> None:
        """Fills a rectangle; does nothing for an empty box."""
        if box.area:
            self._draw(cv2.rectangle, [(box.x0, box.y0), (box.x1, box.y1)], colour, surface, thickness=cv2.FILLED)

    def disc(self, centre: tuple[int, int], radius: int, colour: Colour, surface: int | None = None) -> None:
        """Fills a circle."""
        self._draw(cv2.circle, [centre, radius], colour, surface, thickness=cv2.FILLED)
