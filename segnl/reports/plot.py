"""A plot of a page: lines or marks of every head over numbers or names, as places 0..1 that the template draws.

Places and not pixels, for the drawing is stretched to the reader's screen while its texts keep their size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segnl.core.arrays import Floats

MAX_TICKS = 6
PAD = 0.06
"""Share of the values' range that is left free at either end of an axis."""


@dataclass(frozen=True)
class Points:
    """What is drawn of one head: f64 `n` each, NaN where there is a gap.  low, high: around y, None for neither."""

    head: int
    x: Floats
    y: Floats
    low: Floats | None = None
    high: Floats | None = None


@dataclass(frozen=True)
class Axis:
    """ticks: places 0..1 and their texts."""

    label: str
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Series:
    """One head's line, band and marks.  line, band: SVG paths in a box of 100 x 100, "" for none.

    marks: places from the left and from the bottom, and a text for who points at it.  rods: a place from the left, and
    from where to where an upright line goes.
    """

    head: int
    line: str
    band: str
    marks: Sequence[tuple[float, float, str]]
    rods: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Plot:
    """rows: what is drawn in figures, a name and a text for each head; () where there are too many."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    rows: Sequence[tuple[str, Sequence[str]]] = ()


@dataclass(frozen=True)
class PlotGroup:
    """Plots under one heading.  name: of the section, in links."""

    name: str
    title: str
    meaning: str
    plots: Sequence[Plot]


def mean_and_range(runs: Sequence[Floats]) -> tuple[Floats, Floats | None, Floats | None]:
    """The mean over runs (f64 `n` each, NaN unknown), the least and the greatest; None for both of one run."""
    values = np.stack(list(runs))
    known = np.isfinite(values)
    count = known.sum(axis=0)
    mean = np.where(count > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
    if len(values) < 2:
        return mean, None, None
    low, high = np.where(known, values, np.inf).min(axis=0), np.where(known, values, -np.inf).max(axis=0)
    return mean, np.where(count > 0, low, np.nan), np.where(count > 0, high, np.nan)


def line_plot(title: str, points: Sequence[Points], *, x_label: str, y_label: str) -> Plot:
    """Lines with their bands over numbers."""
    x, y = _Scale.of([each.x for each in points]), _y_scale(points)
    series = [Series(each.head, _line(each, x, y), _band(each, x, y), _last(each, x, y)) for each in points]
    return Plot(title, Axis(x_label, x.ticks()), Axis(y_label, y.ticks()), series)


def scatter_plot(title: str, points: Sequence[Points], *, x_label: str, y_label: str) -> Plot:
    """A mark for each value, with an upright line from low to high."""
    x, y = _Scale.of([each.x for each in points]), _y_scale(points)
    series = [Series(each.head, "", "", _marks(each, x, y), _rods(each, x, y)) for each in points]
    return Plot(title, Axis(x_label, x.ticks()), Axis(y_label, y.ticks()), series)


def name_plot(
    title: str, points: Sequence[Points], names: Sequence[str], *, num_heads: int, x_label: str, y_label: str
) -> Plot:
    """Lines and marks over names from left to right; the x of the points is not read."""
    count = len(names)
    x, y = _Scale(-0.5, count - 0.5), _y_scale(points)
    placed = [Points(each.head, np.arange(count, dtype=float), each.y, each.low, each.high) for each in points]
    series = [Series(each.head, _line(each, x, y), _band(each, x, y), _marks(each, x, y)) for each in placed]
    ticks = [(x.place(i), name) for i, name in enumerate(names)]
    known = {each.head: each.y for each in points}
    rows = [
        (name, ["–" if head not in known else _text(known[head][i]) for head in range(num_heads)])
        for i, name in enumerate(names)
    ]
    return Plot(title, Axis(x_label, ticks), Axis(y_label, y.ticks()), series, rows)


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[Floats | None]) -> "_Scale":
        """Of what is known, with some room at either end; of nothing, 0..1."""
        each = [known[np.isfinite(known)] for known in values if known is not None]
        known = np.concatenate(each) if each else np.zeros(0)
        if not known.size:
            return cls(0.0, 1.0)
        low, high = float(known.min()), float(known.max())
        room = PAD * (high - low) or max(0.01, 0.05 * abs(high))
        return cls(low - room, high + room)

    def place(self, value: float) -> float:
        return float((value - self.low) / (self.high - self.low))

    def ticks(self) -> list[tuple[float, str]]:
        """At most MAX_TICKS round numbers within."""
        least = (self.high - self.low) / MAX_TICKS
        power = 10.0 ** math.floor(math.log10(least))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(self.place(i * step), f"{i * step:,.{decimals}f}") for i in range(first, last + 1)]


def _y_scale(points: Sequence[Points]) -> _Scale:
    return _Scale.of([values for each in points for values in (each.y, each.low, each.high)])


def _line(points: Points, x: _Scale, y: _Scale) -> str:
    parts, is_open = [], False
    for at, value in zip(points.x, points.y, strict=True):
        if not np.isfinite(value):
            is_open = False
            continue
        parts.append(f"{'L' if is_open else 'M'}{_box(x.place(at), y.place(value))}")
        is_open = True
    return "".join(parts)


def _band(points: Points, x: _Scale, y: _Scale) -> str:
    if points.low is None or points.high is None:
        return ""
    known = np.isfinite(points.low) & np.isfinite(points.high)
    there = [_box(x.place(at), y.place(value)) for at, value in zip(points.x[known], points.high[known], strict=True)]
    back = [_box(x.place(at), y.place(value)) for at, value in zip(points.x[known], points.low[known], strict=True)]
    return f"M{'L'.join(there + back[::-1])}Z" if len(there) > 1 else ""


def _marks(points: Points, x: _Scale, y: _Scale) -> list[tuple[float, float, str]]:
    return [
        (x.place(at), y.place(value), _text(value))
        for at, value in zip(points.x, points.y, strict=True)
        if np.isfinite(value)
    ]


def _last(points: Points, x: _Scale, y: _Scale) -> list[tuple[float, float, str]]:
    """The mark at a line's end, which tells lines apart where colours do not."""
    return _marks(points, x, y)[-1:]


def _rods(points: Points, x: _Scale, y: _Scale) -> list[tuple[float, float, float]]:
    if points.low is None or points.high is None:
        return []
    ends = zip(points.x, points.low, points.high, strict=True)
    return [(x.place(at), y.place(low), y.place(high)) for at, low, high in ends if np.isfinite(low + high)]


def _text(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "–"


def _box(right: float, up: float) -> str:
    return f"{100 * right:.2f} {100 - 100 * up:.2f}"
