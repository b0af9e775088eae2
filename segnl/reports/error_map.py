"""Accuracy by position in the image: by size of the object, distance to a boundary, height, distance to the centre.

The pixels of a split are sorted into bins, and each bin has a confusion matrix. All runs are counted in one pass over
the labels, because finding the bins is most of the work.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from segnl.core.arrays import Counts
from segnl.core.progress import Progress
from segnl.core.result_cache import Record
from segnl.data.base import SegmentationData
from segnl.evaluation.evaluation import Evaluation
from segnl.metrics.strata import (
    COMPONENT_PX,
    NUM_BINS,
    NUM_RINGS,
    NUM_ROWS,
    WIDTHS_PX,
    add_by_bin,
    bins_of,
    iou_by_bin,
    recall_by_bin,
)
from segnl.reports.plot import Plot, PlotGroup, Points, category_plot, mean_and_range

ErrorMap = Mapping[str, Counts]
"""Confusion matrices `bins k k+1` by the names in NUM_BINS."""

NAME, VERSION = "error_map", 1
"""Of the counts in a run's cache; VERSION is raised when they change their meaning."""


def error_maps(runs: Mapping[str, Evaluation], data: SegmentationData) -> dict[str, ErrorMap]:
    """Returns every evaluation's counts, by its name; counts in a run's cache are read and not made again."""
    keys = {name: {"version": VERSION, "num_bins": NUM_BINS, "evaluation": run.key} for name, run in runs.items()}
    shapes = {name: counts.shape for name, counts in _empty(data.table.num_classes).items()}

    def is_valid(record: Record) -> bool:
        arrays = {name: own for name, own in record.arrays.items() if own.dtype == np.int64 and own.min() >= 0}
        return {name: counts.shape for name, counts in arrays.items()} == shapes

    records = {name: run.cache.load(NAME, keys[name], is_valid=is_valid) for name, run in runs.items()}
    missing = [name for name, record in records.items() if record is None]
    for name, counts in zip(missing, _count([runs[name] for name in missing], data) if missing else [], strict=True):
        records[name] = record = Record(keys[name], arrays=counts)
        runs[name].cache.store(NAME, record)
    return {name: record.arrays for name, record in records.items() if record is not None}


def _empty(k: int) -> dict[str, Counts]:
    return {name: np.zeros((bins, k, k + 1), np.int64) for name, bins in NUM_BINS.items()}


def _count(runs: Sequence[Evaluation], data: SegmentationData) -> list[dict[str, Counts]]:
    maps = [_empty(data.table.num_classes) for _ in runs]
    with Progress("counting errors by position", len(data), unit="image") as progress:
        for i in range(len(data)):
            label = data.read(i).label
            bins, _ = bins_of(label)
            for run, counts in zip(runs, maps, strict=True):
                add_by_bin(counts, bins, run.mask(i, data.table), label)
            progress.advance()
    return maps


SIZES = [f"{pixels // 1024}k" if pixels >= 1024 else str(pixels) for pixels in COMPONENT_PX]
DISTANCES = [
    *(f"{low + 1}–{high}" if high > low + 1 else str(high) for low, high in itertools.pairwise((0, *WIDTHS_PX))),
    f"> {WIDTHS_PX[-1]}",
]
ROWS = ["top", *[""] * (NUM_ROWS - 2), "bottom"]
RINGS = ["centre", *[""] * (NUM_RINGS - 2), "corners"]


def error_map_plots(heads: Sequence[Sequence[ErrorMap]]) -> PlotGroup | None:
    """Returns a plot for each name in NUM_BINS; None without any run.

    heads: for each head the counts of its runs; a head without runs has no line.
    """
    if not any(heads):
        return None

    def plot(title: str, name: str, names: Sequence[str], x_label: str) -> Plot:
        measure = recall_by_bin if name == "size" else iou_by_bin
        occurs = sum(run[name].sum(axis=(1, 2)) for runs in heads for run in runs) > 0
        x = np.arange(occurs.sum(), dtype=float)
        points = [
            Points(head, x, *mean_and_range([100 * measure(run[name])[occurs] for run in runs]))
            for head, runs in enumerate(heads)
            if runs
        ]
        y_label = "recall, %" if name == "size" else "mIoU, %"
        drawn = [text for text, is_drawn in zip(names, occurs, strict=True) if is_drawn]
        return category_plot(title, points, drawn, num_heads=len(heads), x_label=x_label, y_label=y_label)

    band = " The band spans the lowest to the highest seed." if any(len(runs) > 1 for runs in heads) else ""
    return PlotGroup(
        name="where",
        title="Where context helps",
        meaning="The pixels of the split, grouped by their position in the label. Where a head with a wide view beats "
        "one without, its context is useful; a pixel's surroundings say least far from boundaries and in large areas. "
        "The y axes do not start at 0, so that small differences show; the figures are below each plot."
        f"{band}",
        plots=[
            plot("By size of the object", "size", SIZES, "pixels of its connected area, at least (1k is 1,024)"),
            plot("By distance to a boundary", "distance", DISTANCES, "pixels to the nearest other class"),
            plot("By height in the image", "row", ROWS, "tenths of the height, top to bottom"),
            plot("By distance from the centre", "ring", RINGS, "five rings of equal width"),
        ],
    )
