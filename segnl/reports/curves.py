"""`segnl curves`: loss, learning rate and validation mIoU against steps, for any runs, as one picture."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segnl.core.arrays import Floats
from segnl.core.errors import ConfigError
from segnl.core.files import write_atomic
from segnl.core.run_log import read_log

# Okabe and Ito's colours, which any kind of colour blindness tells apart; yellow is left out, too light on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", ":", "-.")
"""A second round of the colours takes the second, and so on."""
MARKERS = "osD^vPX"
KINDS = (".png", ".svg", ".pdf")
INK, FAINT = "#333333", "#d9d9d9"


@dataclass(frozen=True)
class Curve:
    """One run's log: float64 `n` each. miou: fractions; what was undefined is left out."""

    name: str
    steps: Floats
    loss: Floats
    lr: Floats
    eval_steps: Floats
    miou: Floats


def curves(runs: Sequence[Path], out: Path) -> str:
    """Draws the runs' logs into `out` (.png, .svg or .pdf); returns a line that says what is in it.

    Raises ConfigError for another ending, a run given twice, and one without a logged step.
    """
    if out.suffix not in KINDS:
        raise ConfigError(f"--out {out}: ends with {out.suffix or 'nothing'}; expected {', '.join(KINDS)}")
    read = [read_curve(run, name) for run, name in zip(runs, names_of(runs), strict=True)]
    write_atomic(out, picture(read, kind=out.suffix.removeprefix(".")))
    scored = sum(curve.miou.size > 0 for curve in read)
    return f"{out}: {len(read)} run{'s' if len(read) > 1 else ''}, {scored} with validations"


def names_of(runs: Sequence[Path]) -> list[str]:
    """The folders' names, each with as many of its parents as tell all of them apart."""
    parts = [run.resolve().parts for run in runs]
    if len(set(parts)) < len(parts):
        raise ConfigError("RUN: the same run stands twice; name each once")
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            break
    return names


def read_curve(run: Path, name: str) -> Curve:
    """A run's log.jsonl; a step that was taken again after a resume counts once, as last logged."""
    lines = read_log(run / "log.jsonl")
    steps = {line["step"]: line for line in lines if "loss" in line and "event" not in line}
    scores = {line["step"]: line for line in lines if line.get("event") == "eval" and line.get("miou") is not None}
    if not steps:
        raise ConfigError(f"{run}: holds no log.jsonl with a training step; give a run's folder")
    return Curve(
        name,
        _column(steps, "step"),
        _column(steps, "loss"),
        _column(steps, "lr"),
        _column(scores, "step"),
        _column(scores, "miou"),
    )


def _column(lines: dict[int, dict[str, Any]], key: str) -> Floats:
    return np.array([lines[step][key] for step in sorted(lines)], np.float64)


def smoothed(values: Floats, width: int) -> Floats:
    """The mean over the values that lie within width // 2 places of each, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(values.size)
    first = np.maximum(place - width // 2, 0)
    last = np.minimum(place + width // 2 + 1, values.size)
    return (sums[last] - sums[first]) / (last - first)


def picture(runs: Sequence[Curve], *, kind: str = "png") -> bytes:
    """Three panels above one another with one axis of steps; the bytes of a file of that kind."""
    from matplotlib.figure import Figure

    has_miou = any(curve.miou.size for curve in runs)
    heights = (3.2, 1.2, 2.4 if has_miou else 0.5)
    figure = Figure(figsize=(9, sum(heights) + 1.1 + 0.22 * len(runs)), dpi=150, layout="constrained")
    loss, lr, miou = figure.subplots(3, 1, sharex=True, height_ratios=heights)
    top = 0.0
    for i, curve in enumerate(runs):
        style: dict[str, Any] = {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": DASHES[i // len(COLOURS) % len(DASHES)],
        }
        width = max(1, curve.loss.size // 40)
        mean = smoothed(curve.loss, width)
        top = max(top, float(mean.max()))
        loss.plot(curve.steps, curve.loss, color=style["color"], alpha=0.18, linewidth=0.6, zorder=1)
        loss.plot(curve.steps, mean, label=curve.name, linewidth=1.8, zorder=3, **style)
        # Equal schedules lie upon one another; the later ones are thinner, so that the earlier show beside them.
        lr.plot(curve.steps, curve.lr, linewidth=1.4 + 1.6 * min(4, len(runs) - 1 - i), **style)
        if curve.miou.size:
            marker = MARKERS[i % len(MARKERS)]
            miou.plot(curve.eval_steps, 100 * curve.miou, marker=marker, markersize=4.5, linewidth=1.6, **style)
    loss.set_ylim(0, 1.08 * top)  # single bad batches must not flatten the curve
    lr.set_ylim(bottom=0)
    lr.set_xlim(0, 1.02 * max(float(curve.steps[-1]) for curve in runs))
    for axes, text in ((loss, "training loss"), (lr, "learning rate"), (miou, "validation mIoU (%)")):
        _dress(axes, text)
    if has_miou:
        _mark_last(miou, runs)
    else:
        miou.set(yticks=[], ylabel="")
        miou.text(0.5, 0.5, "no validation in these logs (train.eval_every)", transform=miou.transAxes,
                  ha="center", va="center", color=INK, fontsize=10)  # fmt: skip
    miou.set_xlabel("step", color=INK, fontsize=11)
    miou.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    figure.legend(loc="outside upper left", ncols=1 if len(runs) < 5 else 2, frameon=False, fontsize=10.5)
    out = io.BytesIO()
    figure.savefig(out, format=kind)
    return out.getvalue()


def _dress(axes: Any, label: str) -> None:
    axes.set_ylabel(label, color=INK, fontsize=11)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")


def _mark_last(axes: Any, runs: Sequence[Curve]) -> None:
    """Each run's last mIoU at its end, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    ends = sorted((100 * curve.miou[-1], i) for i, curve in enumerate(runs) if curve.miou.size)
    heights = spread([float(value) for value, _ in ends], 0.075 * (high - low))
    for (value, i), height in zip(ends, heights, strict=True):
        axes.annotate(
            f"{value:.1f}",
            (runs[i].eval_steps[-1], height),
            xytext=(8, 0),
            textcoords="offset points",
            annotation_clip=False,
            va="center",
            fontsize=10,
            color=COLOURS[i % len(COLOURS)],
        )


def spread(values: Sequence[float], apart: float) -> list[float]:
    """Ascending values, moved as little as puts each `apart` above the one before; a crowd keeps its mean."""
    crowds: list[list[float]] = []
    for value in values:
        crowds.append([value])
        while len(crowds) > 1 and _top(crowds[-2], apart) + apart > _bottom(crowds[-1], apart):
            last = crowds.pop()
            crowds[-1] += last
    return [_bottom(crowd, apart) + i * apart for crowd in crowds for i in range(len(crowd))]


def _bottom(crowd: Sequence[float], apart: float) -> float:
    return sum(crowd) / len(crowd) - apart * (len(crowd) - 1) / 2


def _top(crowd: Sequence[float], apart: float) -> float:
    return _bottom(crowd, apart) + apart * (len(crowd) - 1)
