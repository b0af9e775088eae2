"""Plots of a page: lines or marks of every head over numbers or names, as positions 0..1 that the template draws.

Positions are fractions and not pixels, because the drawing stretches to the reader's screen while its text does not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from segnl.core.arrays import Floats

MAX_TICKS = 6
PAD = 0.06
"""Fraction of the values' range that is left free at either end of an axis."""


@dataclass(frozen=True)
class Points:
    """Values of one head: float64 `n` each, NaN where there is a gap. low, high: a range around y, or None."""

    head: int
    x: Floats
    y: Floats
    low: Floats | None = None
    high: Floats | None = None


@dataclass(frozen=True)
class Series:
    """Drawing of one head. line, band: SVG paths in a box of 100 x 100, "" for none.

    marks: positions from the left and from the bottom, and a text for the tooltip.
    error_bars: positions from the left, of the lower end and of the upper end.
    """

    head: int
    line: str = ""
    band: str = ""
    marks: Sequence[tuple[float, float, str]] = ()
    error_bars: Sequence[tuple[float, float, float]] = ()


Ticks = Sequence[tuple[float, str]]
"""Positions 0..1 on an axis and their texts."""


@dataclass(frozen=True)
class Plot:
    """One plot. rows: the same as figures, a name and a text for each head; () where there are too many."""

    title: str
    x_label: str
    x_ticks: Ticks
    y_label: str
    y_ticks: Ticks
    series: Sequence[Series]
    rows: Sequence[tuple[str, Sequence[str]]] = ()


@dataclass(frozen=True)
class PlotGroup:
    """Plots under one heading. name: of the section, in links."""

    name: str
    title: str
    meaning: str
    plots: Sequence[Plot]


def mean_and_range(runs: Sequence[Floats]) -> tuple[Floats, Floats | None, Floats | None]:
    """Returns mean, minimum and maximum over runs (float64 `n` each, NaN unknown); no range for a single run."""
    values = np.ma.masked_invalid(np.stack(list(runs)))
    mean, low, high = (reduced.filled(np.nan) for reduced in (values.mean(0), values.min(0), values.max(0)))
    return (mean, low, high) if len(values) > 1 else (mean, None, None)


def line_plot(title: str, heads: Sequence[Points], *, x_label: str, y_label: str) -> Plot:
    """Returns lines with their bands over numbers, with a mark at the end of each line."""
    x, y = _Scale.fit([points.x for points in heads]), _y_scale(heads)
    series = [replace(_line_series(points, x, y), marks=_marks(points, x, y)[-1:]) for points in heads]
    return Plot(title, x_label, x.ticks(), y_label, y.ticks(), series)


def scatter_plot(title: str, heads: Sequence[Points], *, x_label: str, y_label: str) -> Plot:
    """Returns a mark for each value, with an error bar from low to high."""
    x, y = _Scale.fit([points.x for points in heads]), _y_scale(heads)
    series = [Series(points.head, marks=_marks(points, x, y), error_bars=_error_bars(points, x, y)) for points in heads]
    return Plot(title, x_label, x.ticks(), y_label, y.ticks(), series)


def category_plot(
    title: str, heads: Sequence[Points], names: Sequence[str], *, num_heads: int, x_label: str, y_label: str
) -> Plot:
    """Returns lines and marks over names from left to right; x of the points: index of the name."""
    x, y = _Scale(-0.5, len(names) - 0.5), _y_scale(heads)
    series = [replace(_line_series(points, x, y), marks=_marks(points, x, y)) for points in heads]
    texts = {points.head: [_text(value) for value in points.y] for points in heads}
    unknown = ["–"] * len(names)
    rows = [(name, [texts.get(head, unknown)[i] for head in range(num_heads)]) for i, name in enumerate(names)]
    ticks = [(x.position(i), name) for i, name in enumerate(names)]
    return Plot(title, x_label, ticks, y_label, y.ticks(), series, rows)


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float

    @classmethod
    def fit(cls, values: Sequence[Floats | None]) -> "_Scale":
        """Covers all finite values with some room at either end; 0..1 where there are none."""
        known = np.concatenate([np.zeros(0), *(array[np.isfinite(array)] for array in values if array is not None)])
        if not known.size:
            return cls(0.0, 1.0)
        low, high = float(known.min()), float(known.max())
        room = PAD * (high - low) or max(0.01, 0.05 * abs(high))
        return cls(low - room, high + room)

    def position(self, value: float) -> float:
        return float((value - self.low) / (self.high - self.low))

    def ticks(self) -> list[tuple[float, str]]:
        """Returns at most MAX_TICKS round numbers in the range."""
        smallest = (self.high - self.low) / MAX_TICKS
        power = 10.0 ** math.floor(math.log10(smallest))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= smallest * (1 - 1e-9))
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(self.position(i * step), f"{i * step:,.{decimals}f}") for i in range(first, last + 1)]


def _y_scale(heads: Sequence[Points]) -> _Scale:
    return _Scale.fit([values for points in heads for values in (points.y, points.low, points.high)])


def _line_series(points: Points, x: _Scale, y: _Scale) -> Series:
    """Returns the line of a head, broken at NaN, and its band."""
    line, command = "", "M"
    for at, value in zip(points.x, points.y, strict=True):
        if np.isfinite(value):
            line += command + _svg_point(x.position(at), y.position(value))
        command = "L" if np.isfinite(value) else "M"
    bars = _error_bars(points, x, y)
    corners = [_svg_point(at, high) for at, _, high in bars] + [_svg_point(at, low) for at, low, _ in reversed(bars)]
    return Series(points.head, line, f"M{'L'.join(corners)}Z" if len(bars) > 1 else "")


def _marks(points: Points, x: _Scale, y: _Scale) -> list[tuple[float, float, str]]:
    values = zip(points.x, points.y, strict=True)
    return [(x.position(at), y.position(value), _text(value)) for at, value in values if np.isfinite(value)]


def _error_bars(points: Points, x: _Scale, y: _Scale) -> list[tuple[float, float, float]]:
    if points.low is None or points.high is None:
        return []
    ends = zip(points.x, points.low, points.high, strict=True)
    return [(x.position(at), y.position(low), y.position(high)) for at, low, high in ends if np.isfinite(low + high)]


def _text(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "–"


def _svg_point(right: float, up: float) -> str:
    return f"{100 * right:.2f} {100 - 100 * up:.2f}"
