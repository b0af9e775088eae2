"""Pictures of what heads see: accuracy by the offset between a position and a cue, as SVG for a page and as PNG."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segnl.core.arrays import Floats
from segnl.reports.chart_style import INK, figure_bytes, in_own_style, new_figure

LEVELS = 40
"""Colours of the scale from 0 to 1."""
SCALE = "cividis"
"""Sequential, its lightness rises evenly, and it looks alike with and without colour blindness."""


@dataclass(frozen=True)
class SightPicture:
    """One head's picture. values: f64 `2h-1 2w-1`, 0..1, NaN where nothing was tried; the middle is offset 0.

    caption: what it shows, in words.
    """

    title: str
    values: Floats
    caption: str

    @property
    def paths(self) -> list[tuple[str, str]]:
        """Colour and SVG path of the cells of each colour, a cell being 1 wide and 1 high."""
        level = np.round(np.nan_to_num(self.values, nan=-1.0) * LEVELS).astype(int)
        colours = scale_colours()
        paths = []
        for value in np.unique(level[level >= 0]):
            cells = "".join(f"M{x} {y}h1v1h-1z" for y, x in zip(*np.nonzero(level == value), strict=True))
            paths.append((colours[value], cells))
        return paths


@dataclass(frozen=True)
class SightGroup:
    """Pictures of one task under one heading. name: of the section, in links.

    chance: marked on the colour scale. reach: rows and columns of cells that the frame reaches from the middle.
    examples: images of the task as data URLs. details: sentences that a click unfolds.
    """

    name: str
    title: str
    meaning: str
    chance: float
    reach: tuple[int, int]
    pictures: Sequence[SightPicture]
    examples: Sequence[str] = ()
    details: Sequence[str] = ()

    @property
    def gradient(self) -> str:
        """Returns the stops of a CSS gradient from 0 to 1."""
        return ", ".join(scale_colours())


def scale_colours() -> list[str]:
    """Returns the colours of 0, 1/LEVELS .. 1 as #rrggbb."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps[SCALE](i / LEVELS)) for i in range(LEVELS + 1)]


@in_own_style
def sight_png(picture: SightPicture, *, chance: float, reach: tuple[int, int]) -> bytes:
    """Returns the picture as a file for a paper or a slide."""
    from matplotlib.patches import Rectangle

    figure = new_figure(4.2, 3.6)
    axes = figure.add_subplot()
    h, w = ((side - 1) // 2 for side in picture.values.shape)
    extent = (-w - 0.5, w + 0.5, h + 0.5, -h - 0.5)
    image = axes.imshow(picture.values, cmap=SCALE, vmin=0, vmax=1, extent=extent, interpolation="nearest")
    corner, size = (-reach[1] - 0.5, -reach[0] - 0.5), (2 * reach[1] + 1, 2 * reach[0] + 1)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=2.5))
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="black", linewidth=1.2))
    axes.set_title(picture.title, fontsize=11, color=INK)
    axes.set_xlabel("columns from target to cue", fontsize=9, color=INK)
    axes.set_ylabel("rows from target to cue", fontsize=9, color=INK)
    bar = figure.colorbar(image, ax=axes, ticks=[0, chance, 0.5, 0.75, 1])
    bar.ax.set_yticklabels(["0", f"chance {chance:.2f}", "0.5", "0.75", "1"])
    bar.ax.axhline(chance, color="white", linewidth=1.5)
    bar.set_label("accuracy", fontsize=9, color=INK)
    return figure_bytes(figure)
