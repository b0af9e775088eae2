"""Learning curves from the logs of runs: `segnl curves` draws them as an image file, a study's page as plots."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segnl.core.arrays import Floats
from segnl.core.errors import ConfigError
from segnl.core.files import ensure_writable, write_atomic
from segnl.core.outputs import marked, require_own
from segnl.core.run_log import read_log
from segnl.metrics.confusion import ratio
from segnl.reports.chart_style import INK, figure_bytes, in_own_style, mark, new_figure, style_axes
from segnl.reports.plot import PlotGroup, Points, line_plot, mean_and_range

KINDS = (".png", ".svg", ".pdf")
MAX_POINTS = 150
"""Points of a line on the page; a screen shows no more."""
FIRST = 0.1
"""Fraction of the steps that the page leaves out of the loss: it falls steeply there and hides what follows."""


@dataclass(frozen=True)
class Curve:
    """One run's log: float64 `n` each. miou: fractions, without undefined ones."""

    name: str
    steps: Floats
    loss: Floats
    lr: Floats
    eval_steps: Floats
    miou: Floats
    eval_loss: Floats
    """Mean cross-entropy of the validations; NaN in logs that have none."""

    def smooth_loss(self) -> Floats:
        """Returns the loss smoothed over a fortieth of the steps."""
        return smoothed(self.loss, max(1, self.loss.size // 40))


def read_curve(run: Path, name: str) -> Curve:
    """Reads a run's curve as `find_curve`. Raises ConfigError when its log holds no training step."""
    curve = find_curve(run, name)
    if curve is None:
        raise ConfigError(f"{run}: holds no log.jsonl with a training step; give a run's folder")
    return curve


def find_curve(run: Path, name: str) -> Curve | None:
    """Reads a run's log.jsonl; a step that was repeated after a resume counts once, as last logged. None: no step."""
    lines = [line for line in read_log(run / "log.jsonl") if "step" in line]
    steps = {line["step"]: line for line in lines if "loss" in line and "event" not in line}
    scores = {line["step"]: line for line in lines if line.get("event") == "eval" and line.get("miou") is not None}
    if not steps:
        return None
    return Curve(
        name,
        steps=_column(steps, "step"),
        loss=_column(steps, "loss"),
        lr=_column(steps, "lr"),
        eval_steps=_column(scores, "step"),
        miou=_column(scores, "miou"),
        eval_loss=_column(scores, "loss"),
    )


def _column(lines: dict[int, dict[str, Any]], key: str) -> Floats:
    """Returns the values in the order of steps; NaN for None, infinity, and numbers above 1e30."""
    numbers = [lines[step].get(key) for step in sorted(lines)]
    return np.array([x if x is not None and abs(x) < 1e30 else np.nan for x in numbers], np.float64)


def smoothed(values: Floats, width: int) -> Floats:
    """Returns the mean over the finite values at most width // 2 places from each, over fewer at the ends."""
    window, is_finite = np.ones(2 * (width // 2) + 1), np.isfinite(values)
    total = np.convolve(np.where(is_finite, values, 0), window, "same")
    return ratio(total, np.convolve(is_finite.astype(np.float64), window, "same").round())


def write_curves(runs: Sequence[Path], out: Path) -> str:
    """Draws the runs' logs into `out` (.png, .svg or .pdf); returns a line about its content.

    Raises ConfigError for another suffix, a file that `curves` did not write, a run given twice, and one without a
    logged step.
    """
    if out.suffix not in KINDS:
        raise ConfigError(f"--out {out}: ends with {out.suffix or 'nothing'}; expected {', '.join(KINDS)}")
    if files := [run for run in runs if run.is_file()]:
        raise ConfigError(f"{files[0]}: is a file; give a run's folder, whose log.jsonl holds its curve")
    require_own(out, "curves", option="--out")
    ensure_writable(out.parent)
    curves = [read_curve(run, name) for run, name in zip(runs, distinct_names(runs), strict=True)]
    write_atomic(out, marked(curves_figure(curves, kind=out.suffix.removeprefix(".")), "curves"))
    num_validated = sum(curve.miou.size > 0 for curve in curves)
    return f"{out}: {len(curves)} run{'s' if len(curves) > 1 else ''}, {num_validated} with validations"


def distinct_names(paths: Sequence[Path], depth: int = 1) -> list[str]:
    """Returns each path's last `depth` names, or more where that makes all distinct.

    Raises ConfigError for a path that is given twice.
    """
    parts = [path.resolve().parts for path in paths]
    if len(set(parts)) < len(parts):
        repeated = next(path for path, own in zip(paths, parts, strict=True) if parts.count(own) > 1)
        raise ConfigError(f"{repeated}: is given twice; name each once")
    while len({own[-depth:] for own in parts}) < len(parts):
        depth += 1
    return ["/".join(own[-depth:]) for own in parts]


@in_own_style
def curves_figure(curves: Sequence[Curve], *, kind: str = "png") -> bytes:
    """Draws loss, learning rate and mIoU over one axis of steps; returns a file of that kind."""
    has_miou = any(curve.miou.size for curve in curves)
    heights = (3.2, 1.2, 2.4 if has_miou else 0.5)
    figure = new_figure(9, sum(heights) + 1.1 + 0.22 * len(curves))
    loss, lr, miou = figure.subplots(3, 1, sharex=True, height_ratios=heights)
    for i, curve in enumerate(curves):
        style = mark(i).line_style()
        label = f"{curve.name}, last mIoU {100 * curve.miou[-1]:.1f} %" if curve.miou.size else curve.name
        label = f" {label}" if label.startswith("_") else label  # matplotlib leaves these out of its legend
        loss.plot(curve.steps, curve.loss, color=mark(i).colour, alpha=0.18, linewidth=0.6, zorder=1)
        loss.plot(curve.steps, curve.smooth_loss(), label=label, linewidth=1.8, zorder=3, **style)
        if np.isfinite(curve.eval_loss).any():
            points = {"color": mark(i).colour, "marker": mark(i).marker, "markersize": 4.5}
            loss.plot(curve.eval_steps, curve.eval_loss, linestyle=":", linewidth=1.2, zorder=2, **points)
        # Equal schedules cover one another; later ones are thinner, so that earlier ones remain visible.
        lr.plot(curve.steps, curve.lr, linewidth=1.4 + 1.6 * min(4, len(curves) - 1 - i), **style)
        if curve.miou.size:
            percent = 100 * curve.miou
            miou.plot(curve.eval_steps, percent, marker=mark(i).marker, markersize=4.5, linewidth=1.6, **style)
    has_eval_loss = any(np.isfinite(curve.eval_loss).any() for curve in curves)
    loss_label = "loss (points: validation)" if has_eval_loss else "training loss"
    for axes, label in ((loss, loss_label), (lr, "learning rate"), (miou, "validation mIoU (%)")):
        style_axes(axes, y_label=label)
    # The top of the smoothed loss, because single bad batches must not flatten the curve.
    smooth = np.concatenate([curve.smooth_loss() for curve in curves])
    highest = float(smooth[np.isfinite(smooth)].max(initial=0)) or 1.0
    eval_losses = [value for curve in curves for value in curve.eval_loss.tolist() if value <= 2 * highest]
    loss.set_ylim(0, 1.08 * max([highest, *eval_losses]))
    lr.set_ylim(bottom=0)
    lr.set_xlim(0, 1.02 * max(float(curve.steps[-1]) for curve in curves))
    if not has_miou:
        miou.set(yticks=[], ylabel="")
        text = "no validation in these logs (train.eval_every)"
        miou.text(0.5, 0.5, text, transform=miou.transAxes, ha="center", va="center", color=INK, fontsize=10)
    miou.set_xlabel("step", color=INK, fontsize=11)
    miou.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    figure.legend(loc="outside upper left", ncols=1 if len(curves) < 5 else 2, frameon=False, fontsize=10.5)
    return figure_bytes(figure, kind)


def learning_plots(heads: Sequence[Sequence[Path]]) -> PlotGroup | None:
    """Returns the page's plots of loss and, where runs were validated, mIoU; None without any log.

    heads: for each head the folders of its runs; those without a logged step are left out.
    """
    found = [[find_curve(run, run.name) for run in runs] for runs in heads]
    curves = [[curve for curve in own if curve is not None] for own in found]
    if not any(curves):
        return None
    loss = [_points(head, [_late_loss(curve) for curve in runs]) for head, runs in enumerate(curves) if runs]
    plots = [line_plot("Loss in training", loss, x_label="steps", y_label="loss")]
    scores = [[(curve.eval_steps, 100 * curve.miou) for curve in runs if curve.miou.size] for runs in curves]
    if any(scores):
        miou = [_points(head, runs) for head, runs in enumerate(scores) if runs]
        plots.append(line_plot("Validation during training", miou, x_label="steps", y_label="mIoU, %"))
    has_seeds = any(len(runs) > 1 for runs in curves)
    band = " The line is the mean over seeds; the band spans the lowest to the highest seed." if has_seeds else ""
    return PlotGroup(
        name="learning",
        title="Learning curves",
        meaning="How well the heads fit their training images. A lower loss is a better fit, which does not yet mean a "
        "better score on new images. The curves are smoothed over a fortieth of the steps; the first tenth is left "
        f"out, because every loss falls steeply there.{band}",
        plots=plots,
    )


def _late_loss(curve: Curve) -> tuple[Floats, Floats]:
    is_drawn = curve.steps >= FIRST * curve.steps[-1]
    return curve.steps[is_drawn], curve.smooth_loss()[is_drawn]


def _points(head: int, runs: Sequence[tuple[Floats, Floats]]) -> Points:
    """Interpolates the runs' values at common steps; returns their mean and range."""
    steps = np.unique(np.concatenate([steps for steps, _ in runs]))
    if steps.size > MAX_POINTS:
        steps = np.linspace(steps[0], steps[-1], MAX_POINTS)
    values = [np.interp(steps, own_steps, known, left=np.nan, right=np.nan) for own_steps, known in runs]
    return Points(head, steps, *mean_and_range(values))
