"""Charts of a page, from numbers: IoU and differences by class, accuracy on ambiguous pairs, mIoU against cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segnl.core.arrays import Counts, Floats
from segnl.reports.page import DifferenceChart, DifferenceRow, DotChart, DotRow
from segnl.reports.plot import PlotGroup, Points, scatter_plot
from segnl.streets.pairs import PAIRS


def class_chart(names: Sequence[str], iou: Sequence[Floats], true_pixels: Counts) -> DotChart:
    """iou: f64 `k` of each head; true_pixels: int64 `k`, over the split. Classes sorted by how far the heads differ."""
    values = np.stack(list(iou))  # heads k
    share = true_pixels / max(1, int(true_pixels.sum()))
    rows = [
        DotRow(name, _known(values[:, k]), f"{100 * share[k]:.1f} % of pixels" if share[k] else "not in the truth")
        for k, name in enumerate(names)
    ]
    rows.sort(key=lambda row: (-_spread(row), row.label))
    return DotChart(
        title="Class by class",
        meaning="IoU: of all pixels that are this class in the truth, in the prediction or in both, the share that is "
        "in both. The classes on which the heads differ most stand first.",
        rows=rows,
    )


def pair_chart(accuracy: Sequence[Floats]) -> DotChart:
    """accuracy: f64 `pairs` of each head."""
    values = np.stack(list(accuracy))  # heads pairs
    rows = [DotRow(pair.name, _known(values[:, p]), f"told apart by {pair.cue_is}") for p, pair in enumerate(PAIRS)]
    return DotChart(
        title="Ambiguous pairs",
        meaning="Objects of a pair look alike; only a cue elsewhere in the street says which class they are. The share "
        "of their pixels that gets the right class: a head that knows the objects but cannot see the cue comes to "
        "50 %, one that does not know them to less.",
        rows=rows,
        guide=0.5,
        guide_label="50 %, what guessing between the two classes of a pair gives",
    )


COSTS = {
    "gflops": ("Operations", "GFLOPs for one image", 1.0),
    "params": ("Size", "million parameters", 1e-6),
    "latency_ms": ("Time to predict", "milliseconds for one image", 1.0),
    "peak_mib": ("Memory", "MiB at the peak", 1.0),
    "train_images_per_s": ("Speed of training", "images a second; more is cheaper", 1.0),
}
"""By the key of a head in compare's JSON: title, what the axis says, and what a value is multiplied by for it."""


def cost_plots(heads: Mapping[str, Mapping[str, Any]]) -> PlotGroup | None:
    """heads: as in compare's JSON. A plot for each cost that was measured of every head; None where there is none."""
    known = [(index, each) for index, each in enumerate(heads.values()) if each["miou_mean"] is not None]
    plots = []
    for key, (title, x_label, scale) in COSTS.items():
        if known and all(each.get(key) is not None for _, each in known):
            points = [_cost_point(index, each, scale * each[key]) for index, each in known]
            plots.append(scatter_plot(title, points, x_label=x_label, y_label="mIoU, %"))
    if not plots:
        return None
    has_seeds = any(each["miou_sd"] is not None for _, each in known)
    rod = " The upright line is one standard deviation over seeds to either side." if has_seeds else ""
    return PlotGroup(
        name="cost",
        title="mIoU against cost",
        meaning="A head is worth its cost when none stands above it for less: further up is a better score, further "
        f"left is cheaper (for the speed of training: further right). The axes do not begin at 0.{rod}",
        plots=plots,
    )


def _cost_point(head: int, mapping: Mapping[str, Any], cost: float) -> Points:
    miou = np.array([100 * mapping["miou_mean"]])
    sd = mapping["miou_sd"]
    low, high = (None, None) if sd is None else (miou - 100 * sd, miou + 100 * sd)
    return Points(head, np.array([cost], np.float64), miou, low, high)


Interval = tuple[float | None, float | None, float | None]


def difference_chart(
    head: str, control: str, classes: Mapping[str, Interval], *, is_about_heads: bool
) -> DifferenceChart:
    """classes: difference of IoU, low, high of each; fractions, None where undefined. The largest gain stands first.

    is_about_heads: whether the intervals are for new seeds, too, or for these networks on new images alone.
    """
    ends = [abs(value) for interval in classes.values() for value in interval if value is not None]
    reach = max([*ends, 0.001])
    rows = [_difference_row(name, interval, reach) for name, interval in classes.items()]
    rows.sort(key=lambda row: (row.place is None, -(row.place or 0), row.label))
    what = "new seeds and new images" if is_about_heads else "these same networks on new images: one seed says no more"
    return DifferenceChart(
        title=f"{head} against {control}, class by class",
        meaning=f"Points of IoU that {head} gains (right) or loses (left) in each class. The bar is the 95 % interval "
        f"for {what}. Nothing is corrected for the number of classes: of twenty, one bar misses by chance alone.",
        rows=rows,
        reach=f"{100 * reach:.1f}",
        worse=f"{control} is better",
        better=f"{head} is better",
    )


def _difference_row(name: str, interval: Interval, reach: float) -> DifferenceRow:
    value, low, high = interval
    if value is None:
        return DifferenceRow(name, "–", "", None, None, is_clear=False)
    text, place = f"{100 * value:+z.1f}", _place(value, reach)
    if low is None or high is None:
        return DifferenceRow(name, text, "", place, None, is_clear=False)
    ends = _place(low, reach), _place(high, reach)
    return DifferenceRow(name, text, f"[{100 * low:+z.1f}, {100 * high:+z.1f}]", place, ends, low * high > 0)


def _place(value: float, reach: float) -> float:
    return 0.5 + 0.5 * value / reach


def _known(values: Floats) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _spread(row: DotRow) -> float:
    known = [value for value in row.values if value is not None]
    return max(known) - min(known) if known else -1.0
