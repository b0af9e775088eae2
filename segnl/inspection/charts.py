"""Charts of a page, from numbers: IoU of every class, accuracy on every ambiguous pair."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segnl.datasets.streets_pairs import PAIRS
from segnl.inspection.page import DotChart, DotRow

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


def _known(values: Floats) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _spread(row: DotRow) -> float:
    known = [value for value in row.values if value is not None]
    return max(known) - min(known) if known else -1.0
