"""Charts of a page, from numbers: IoU and differences of every class, accuracy on every ambiguous pair."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from segnl.datasets.streets_pairs import PAIRS
from segnl.inspection.page import DifferenceChart, DifferenceRow, DotChart, DotRow

Floats = npt.NDArray[np.float64]


def class_chart(names: Sequence[str], iou: Sequence[Floats], true_pixels: npt.NDArray[np.int64]) -> DotChart:
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
        return DifferenceRow(name, "–", None, None, is_clear=False)
    text = f"{100 * value:+.1f}"
    if low is None or high is None:
        return DifferenceRow(name, text, _place(value, reach), None, is_clear=False)
    ends = _place(low, reach), _place(high, reach)
    return DifferenceRow(
        name, f"{text} [{100 * low:+.1f}, {100 * high:+.1f}]", _place(value, reach), ends, low * high > 0
    )


def _place(value: float, reach: float) -> float:
    return 0.5 + 0.5 * value / reach


def _known(values: Floats) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _spread(row: DotRow) -> float:
    known = [value for value in row.values if value is not None]
    return max(known) - min(known) if known else -1.0
