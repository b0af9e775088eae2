"""strata.png: four charts of where in the images the errors are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from segnl.core.config import JSONDict
from segnl.reports.chart_style import MARKS, figure_bytes, in_own_style, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@in_own_style
def strata_plot(strata: JSONDict, *, title: str) -> bytes:
    """Returns a PNG of `Strata.to_dict()`; undefined values are left out."""
    figure = new_figure(11, 7.5)
    figure.suptitle(title)
    boundaries, components, rows, distances = figure.subplots(2, 2).flat

    names = {"boundary_iou": "boundary IoU: of the two boundary bands", "trimap_iou": "trimap IoU: of all these pixels"}
    for (key, name), mark in zip(names.items(), MARKS, strict=False):
        values = np.array(list(strata[key].values()), float)  # None becomes NaN, which matplotlib does not draw
        boundaries.plot(list(map(int, strata[key])), values, marker=mark.marker, label=name, **mark.line_style())
    style_axes(boundaries, title="Near boundaries", x_label="pixels from the boundary", y_label="mean IoU")
    boundaries.set_ylim(0, 1)
    boundaries.legend(loc="best", frameon=False)

    sizes = strata["recall_by_component"]
    names_of_sizes = [f"≥ {size['min_px']:,}\n{size['components']:,} areas" for size in sizes]
    _bars(components, names_of_sizes, [size["recall"] for size in sizes])
    style_axes(components, title="By size of the connected area in the label", x_label="pixels", y_label="recall")
    components.tick_params(axis="x", labelsize=7)

    by_row = strata["iou_by_row"]
    rows.barh(range(len(by_row)), np.array(by_row, float), color=MARKS[0].colour)
    rows.set_yticks(range(len(by_row)), ["top", *[""] * (len(by_row) - 2), "bottom"])
    rows.invert_yaxis()  # the top of the image on top
    rows.set_xlim(0, 1)
    style_axes(rows, title="By tenth of the height", x_label="mean IoU", grid_along="x")

    by_distance = strata["iou_by_distance"]
    _bars(distances, ["centre", *[""] * (len(by_distance) - 2), "corners"], by_distance)
    style_axes(distances, title="By distance from the centre", y_label="mean IoU")
    return figure_bytes(figure)


def _bars(axes: "Axes", names: Sequence[str], values: Sequence[float | None]) -> None:
    axes.bar(range(len(names)), np.array(values, float), color=MARKS[0].colour)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1)
