"""Charts of a page: IoU and differences by class, accuracy on ambiguous pairs, mIoU against cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segnl.core.arrays import Counts, Floats
from segnl.evaluation.evaluation import Evaluation
from segnl.reports.page import DifferenceChart, DotChart, DotRow, Interval
from segnl.reports.plot import PlotGroup, Points, scatter_plot
from segnl.streets.pairs import PAIRS


def score_charts(
    heads: Sequence[Sequence[Evaluation]], class_names: Sequence[str], any_run: Evaluation
) -> list[DotChart]:
    """Returns the charts of ambiguous pairs, where the data set has some, and of classes.

    heads: for each head the evaluations over which the means are taken; a head without any has no marks.
    """
    iou = [_mean([run.iou() for run in runs], len(class_names)) for runs in heads]
    charts = [class_chart(class_names, iou, any_run.target.sum(axis=0))]
    if any_run.pairs is not None:
        accuracy = [[own for run in runs if (own := run.pair_accuracy()) is not None] for runs in heads]
        charts.insert(0, pair_chart([_mean(values, any_run.pairs.shape[1]) for values in accuracy]))
    return charts


def _mean(values: Sequence[Floats], count: int) -> Floats:
    return np.mean(np.stack(list(values)), axis=0) if values else np.full(count, np.nan)


def class_chart(names: Sequence[str], iou: Sequence[Floats], label_pixels: Counts) -> DotChart:
    """Returns the IoU of every class, the classes on which the heads differ most first.

    iou: f64 `k` of each head. label_pixels: int64 `k`, over the split.
    """
    values = np.stack(list(iou))  # heads k
    fraction = label_pixels / max(1, int(label_pixels.sum()))
    rows = [
        DotRow(
            name, _known(values[:, k]), f"{100 * fraction[k]:.1f} % of pixels" if fraction[k] else "not in any label"
        )
        for k, name in enumerate(names)
    ]
    rows.sort(key=lambda row: (-_range(row), row.label))
    return DotChart(
        title="Class by class",
        meaning="IoU: of all pixels that have this class in the label, in the prediction or in both, the percentage "
        "that has it in both. The classes on which the heads differ most come first.",
        rows=rows,
    )


def pair_chart(accuracy: Sequence[Floats]) -> DotChart:
    """Returns the accuracy on every ambiguous pair of the streets. accuracy: f64 `pairs` of each head."""
    values = np.stack(list(accuracy))  # heads pairs
    rows = [DotRow(pair.name, _known(values[:, p]), f"told apart by {pair.cue_is}") for p, pair in enumerate(PAIRS)]
    return DotChart(
        title="Ambiguous pairs",
        meaning="The two objects of a pair look alike; only a cue elsewhere in the street shows their class. The chart "
        "shows the percentage of their pixels with the correct class: 50 % for a head that recognises the objects but "
        "not the cue, less for one that does not recognise them.",
        rows=rows,
        guide=0.5,
        guide_label="50 %, the result of guessing between the two classes of a pair",
    )


COSTS = {
    "gflops": ("Operations", "GFLOPs for one image", 1.0),
    "params": ("Size", "million parameters", 1e-6),
    "latency_ms": ("Time to predict", "milliseconds for one image", 1.0),
    "peak_mib": ("Memory", "MiB at the peak", 1.0),
    "train_images_per_s": ("Speed of training", "images per second; more is cheaper", 1.0),
}
"""By the key of a head in compare's JSON: title, label of the axis, and the factor from the value to its unit."""


def cost_plots(heads: Mapping[str, Mapping[str, Any]]) -> PlotGroup | None:
    """Returns a plot for each cost that is known of every head; None without any. heads: as in compare's JSON."""
    known = [(index, head) for index, head in enumerate(heads.values()) if head["miou_mean"] is not None]
    plots = []
    for key, (title, x_label, scale) in COSTS.items():
        if known and all(head.get(key) is not None for _, head in known):
            points = [_cost_point(index, head, scale * head[key]) for index, head in known]
            plots.append(scatter_plot(title, points, x_label=x_label, y_label="mIoU, %"))
    if not plots:
        return None
    has_seeds = any(head["miou_sd"] is not None for _, head in known)
    bars = " The error bars are one standard deviation over seeds to either side." if has_seeds else ""
    return PlotGroup(
        name="cost",
        title="mIoU against cost",
        meaning="A head is worth its cost if no other head scores higher for less. Higher is a better score, further "
        f"left is cheaper (for the speed of training: further right). The axes do not start at 0.{bars}",
        plots=plots,
    )


def _cost_point(index: int, head: Mapping[str, Any], cost: float) -> Points:
    miou, sd = np.array([100 * head["miou_mean"]]), head["miou_sd"]
    low, high = (None, None) if sd is None else (miou - 100 * sd, miou + 100 * sd)
    return Points(index, np.array([cost], np.float64), miou, low, high)


def difference_chart(
    head: str, control: str, classes: Mapping[str, Interval], *, is_about_heads: bool, images: str = "and new images"
) -> DifferenceChart:
    """Returns the differences of IoU by class, the largest gain first.

    is_about_heads: the intervals hold for new seeds; otherwise for these networks on new images only.
    images: that the intervals for new seeds are about, in words that follow `new seeds`.
    """
    ends = [abs(value) for interval in classes.values() for value in interval if value is not None]
    of_networks = "these same networks on new images: one seed shows no more"
    scope = f"new seeds {images}" if is_about_heads else of_networks
    return DifferenceChart(
        title=f"{head} against {control}, class by class",
        meaning=f"Points of IoU that {head} gains (right) or loses (left) in each class. The bar is the 95 % interval "
        f"for {scope}. There is no correction for the number of classes: one bar in twenty misses by chance alone.",
        rows=dict(sorted(classes.items(), key=lambda row: (row[1][0] is None, -(row[1][0] or 0), row[0]))),
        reach=max([*ends, 0.001]),
        worse=f"{control} is better",
        better=f"{head} is better",
    )


def _known(values: Floats) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _range(row: DotRow) -> float:
    known = [value for value in row.values if value is not None]
    return max(known) - min(known) if known else -1.0
