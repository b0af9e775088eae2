"""Where in the images networks are right: by size of the object, distance to a boundary, row, distance to the centre.

Counted from the masks that runs keep, all runs at once, since what depends on the truth alone is most of the work.
RUN/eval/SPLIT-MODE/where.npz holds a run's counts and the hash of the kept.json that they belong to.
"""

import io
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from segnl.core import IGNORE
from segnl.core.arrays import Counts, Floats, Pixels
from segnl.core.files import NPZ_FAULTS, sha256_of, write_atomic
from segnl.core.progress import Progress
from segnl.data.base import SegmentationData
from segnl.evaluation.predictions import Predictions
from segnl.metrics.confusion import Confusion
from segnl.metrics.strata import (
    COMPONENT_PX,
    NUM_RINGS,
    NUM_ROWS,
    WIDTHS_PX,
    component_size_of,
    is_near_boundary,
    ring_of,
)
from segnl.reports.plot import Plot, PlotGroup, Points, mean_and_range, name_plot

Where = Mapping[str, Counts]
"""Confusions `parts k k+1` by the name of what was cut into parts, one of PARTS."""

PARTS = {"size": len(COMPONENT_PX), "distance": len(WIDTHS_PX) + 1, "row": NUM_ROWS, "ring": NUM_RINGS}
FILE = "where.npz"


def where_right(runs: Mapping[str, Predictions], data: SegmentationData) -> dict[str, Where]:
    """Every run's counts, by its name; those that are kept already are read."""
    found = {name: _kept(each) for name, each in runs.items()}
    missing = [name for name, counts in found.items() if counts is None]
    if missing:
        made = _count([runs[name] for name in missing], data)
        for name, counts in zip(missing, made, strict=True):
            _keep(runs[name], counts)
            found[name] = counts
    return {name: counts for name, counts in found.items() if counts is not None}


def _count(runs: Sequence[Predictions], data: SegmentationData) -> list[dict[str, Counts]]:
    k = data.table.num_classes
    counts = [{name: np.zeros((parts, k, k + 1), np.int64) for name, parts in PARTS.items()} for _ in runs]
    with Progress("where the errors are", len(data), unit="image") as progress:
        for i in range(len(data)):
            label = data.read(i).label
            maps = parts_of(label)
            for run, own in zip(runs, counts, strict=True):
                add(own, maps, run.mask(i, data.table), label)
            progress.advance()
    return counts


def parts_of(label: Pixels) -> dict[str, Pixels]:
    """Which part each pixel lies in, u8 `H W`, by the names of PARTS; label: train ids u8 `H W`, 255 void.

    distance: 0 within WIDTHS_PX[0] of another id, 1 within WIDTHS_PX[1] and so on; the last part is farther than all.
    """
    distance = np.full(label.shape, len(WIDTHS_PX), np.uint8)
    for part in reversed(range(len(WIDTHS_PX))):
        distance[is_near_boundary(label, WIDTHS_PX[part], border_counts=False)] = part
    row = np.zeros(label.shape, np.uint8)
    for part, rows in enumerate(np.array_split(np.arange(label.shape[0]), NUM_ROWS)):
        row[rows] = part
    ring = ring_of(label.shape).astype(np.uint8)
    return {"size": component_size_of(label), "distance": distance, "row": row, "ring": ring}


def add(counts: Where, maps: Mapping[str, Pixels], pred: Pixels, label: Pixels) -> None:
    """Adds one image's pixels that are not void in the truth; pred: train ids u8 `H W`, 255 void."""
    scored = label != IGNORE
    for name, matrix in counts.items():
        parts, k, columns = matrix.shape
        cell = (maps[name][scored].astype(np.intp) * k + label[scored]) * columns + np.minimum(pred[scored], k)
        matrix += np.bincount(cell, minlength=parts * k * columns).reshape(matrix.shape)


def _kept(run: Predictions) -> dict[str, Counts] | None:
    try:
        with np.load(run.folder / FILE, allow_pickle=False) as arrays:
            if str(arrays["belongs_to"]) != sha256_of(run.folder / "kept.json"):
                return None
            counts = {name: arrays[name] for name in PARTS}
    except NPZ_FAULTS:
        return None  # not there, or of an earlier version: it is made again
    k = len(run.metrics["per_class"])
    is_ours = all(counts[name].shape == (parts, k, k + 1) for name, parts in PARTS.items())
    return counts if is_ours else None


def _keep(run: Predictions, counts: Where) -> None:
    packed = io.BytesIO()
    belongs_to = np.array(sha256_of(run.folder / "kept.json"))
    np.savez_compressed(packed, belongs_to=belongs_to, **counts)  # type: ignore[arg-type]  # as in predictions.py
    write_atomic(run.folder / FILE, packed.getvalue())


def iou_by_part(counts: Counts) -> Floats:
    """Mean IoU in each part over the classes that occur there, f64 `parts`; NaN where nothing is labelled."""
    return np.array([Confusion(part.shape[0], part).miou() for part in counts])


def recall_by_part(counts: Counts) -> Floats:
    """The share of each part's pixels that is right, f64 `parts`; NaN where there are none."""
    total = counts.sum(axis=(1, 2))
    right = np.trace(counts[:, :, :-1], axis1=1, axis2=2)
    return np.where(total > 0, right / np.maximum(total, 1), np.nan)


SIZES = [f"{least // 1024}k" if least >= 1024 else str(least) for least in COMPONENT_PX]
DISTANCES = [
    *(f"{low + 1}–{high}" if high > low + 1 else str(high) for low, high in itertools.pairwise((0, *WIDTHS_PX))),
    f"> {WIDTHS_PX[-1]}",
]
ROWS = ["top", *[""] * (NUM_ROWS - 2), "bottom"]
RINGS = ["centre", *[""] * (NUM_RINGS - 2), "corners"]


def where_plots(heads: Sequence[Sequence[Where]]) -> PlotGroup | None:
    """heads: for each head its runs; a head without any has no line. None when none has any."""
    if not any(heads):
        return None

    def plot(title: str, name: str, names: Sequence[str], x_label: str) -> Plot:
        measure = recall_by_part if name == "size" else iou_by_part
        occurs = sum(run[name].sum(axis=(1, 2)) for runs in heads for run in runs) > 0
        points = []
        for head, runs in enumerate(heads):
            if runs:
                mean, low, high = mean_and_range([100 * measure(run[name])[occurs] for run in runs])
                points.append(Points(head, mean, mean, low, high))
        y_label = "share of pixels found, %" if name == "size" else "mIoU, %"
        shown = [text for text, is_there in zip(names, occurs, strict=True) if is_there]
        return name_plot(title, points, shown, num_heads=len(heads), x_label=x_label, y_label=y_label)

    band = " The band reaches from the lowest to the highest seed." if any(len(runs) > 1 for runs in heads) else ""
    return PlotGroup(
        name="where",
        title="Where context helps",
        meaning="The pixels of the split, sorted by where they lie in the truth. Where a head that sees far is ahead "
        "of one that does not, its context is of use; far from boundaries and in large areas a pixel's near "
        "surroundings say least. The upright axes do not begin at 0, so that small gaps show; the figures stand below "
        f"each plot.{band}",
        plots=[
            plot("By size of the object", "size", SIZES, "pixels of its connected area, from ... on (1k is 1,024)"),
            plot("By distance to a boundary", "distance", DISTANCES, "pixels to the nearest other class"),
            plot("By height in the image", "row", ROWS, "tenths of the height, top to bottom"),
            plot("By distance from the centre", "ring", RINGS, "five rings of equal width"),
        ],
    )
