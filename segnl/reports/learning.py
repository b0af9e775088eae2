"""Learning curves of heads: the loss and, where runs were validated, mIoU against steps, with a band over seeds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segnl.core.arrays import Floats
from segnl.reports.curves import Curve, read_curve, smoothed
from segnl.reports.plot import PlotGroup, Points, line_plot, mean_and_range

MAX_POINTS = 150
"""Of a line; more could not be told apart on a screen."""
FIRST = 0.1
"""Share of the steps that the loss is not drawn for: every head falls steeply there, and hides what comes after."""


def learning_plots(heads: Sequence[Sequence[Path]]) -> PlotGroup | None:
    """heads: for each head its runs' folders; those without a log are left out. None when none has one."""
    read = [[read_curve(run, run.name) for run in runs if (run / "log.jsonl").exists()] for runs in heads]
    if not any(read):
        return None
    loss = [_points(head, [_loss(curve) for curve in runs]) for head, runs in enumerate(read) if runs]
    plots = [line_plot("Loss in training", loss, x_label="steps", y_label="loss")]
    scored = [[(each.eval_steps, 100 * each.miou) for each in runs if each.miou.size] for runs in read]
    if any(scored):
        miou = [_points(head, runs) for head, runs in enumerate(scored) if runs]
        plots.append(line_plot("Validation while training", miou, x_label="steps", y_label="mIoU, %"))
    has_seeds = any(len(runs) > 1 for runs in read)
    band = "The line is the mean over seeds; the band reaches from the lowest to the highest seed." if has_seeds else ""
    return PlotGroup(
        name="learning",
        title="Learning curves",
        meaning="How the heads learned from their training images: lower loss fits them better, which is not yet a "
        "better score on new ones. Smoothed over a fortieth of the steps; the first tenth is left out, where every "
        f"loss falls steeply. {band}".strip(),
        plots=plots,
    )


def _loss(curve: Curve) -> tuple[Floats, Floats]:
    is_drawn = curve.steps >= FIRST * curve.steps[-1]
    return curve.steps[is_drawn], smoothed(curve.loss, max(1, curve.loss.size // 40))[is_drawn]


def _points(head: int, runs: Sequence[tuple[Floats, Floats]]) -> Points:
    """Runs' steps and values, brought to common steps."""
    steps = np.unique(np.concatenate([steps for steps, _ in runs]))
    if steps.size > MAX_POINTS:
        steps = np.linspace(steps[0], steps[-1], MAX_POINTS)
    values = [np.interp(steps, own, known, left=np.nan, right=np.nan) for own, known in runs]
    mean, low, high = mean_and_range(values)
    return Points(head, steps, mean, low, high)
