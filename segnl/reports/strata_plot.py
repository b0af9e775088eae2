"""strata.png: four charts of where in the images the errors are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from segnl.core.config import JSONDict
from segnl.reports.chart_style import MARKS, figure_bytes, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def strata_plot(strata: JSONDict, *, title: str) -> bytes:
    """Returns a PNG of `Strata.to_dict()`; undefined values are left out."""
    figure = new_figure(11, 7.5)
    figure.suptitle(title)
    axes = figure.subplots(2, 2)
    _boundaries(axes[0, 0], strata)
    _components(axes[0, 1], strata["recall_by_component"])
    _rows(axes[1, 0], strata["iou_by_row"])
    _distances(axes[1, 1], strata["iou_by_distance"])
    return figure_bytes(figure)


def _boundaries(axes: "Axes", strata: JSONDict) -> None:
    names = {"boundary_iou": "boundary IoU: of the two boundary bands", "trimap_iou": "trimap IoU: of all these pixels"}
    for (key, name), mark in zip(names.items(), MARKS, strict=False):
        known = {int(width): value for width, value in strata[key].items() if value is not None}
        axes.plot([*known], [*known.values()], marker=mark.marker, label=name, **mark.line_style())
    style_axes(axes, title="Near boundaries", x_label="pixels from the boundary", y_label="mean IoU")
    axes.set_ylim(0, 1)
    axes.legend(loc="best", frameon=False)


def _components(axes: "Axes", sizes: Sequence[dict[str, Any]]) -> None:
    names = [f"≥ {size['min_px']:,}\n{size['components']:,} areas" for size in sizes]
    _bars(axes, names, [size["recall"] for size in sizes])
    style_axes(axes, title="By size of the connected area in the label", x_label="pixels", y_label="recall")
    axes.tick_params(axis="x", labelsize=7)


def _rows(axes: "Axes", values: Sequence[float | None]) -> None:
    known = {row: value for row, value in enumerate(values) if value is not None}
    axes.barh([*known], [*known.values()], color=MARKS[0].colour)
    axes.set_yticks(range(len(values)), ["top", *[""] * (len(values) - 2), "bottom"])
    axes.invert_yaxis()  # the top of the image on top
    axes.set_xlim(0, 1)
    style_axes(axes, title="By tenth of the height", x_label="mean IoU", grid_along="x")


def _distances(axes: "Axes", values: Sequence[float | None]) -> None:
    _bars(axes, ["centre", *[""] * (len(values) - 2), "corners"], values)
    style_axes(axes, title="By distance from the centre", y_label="mean IoU")


def _bars(axes: "Axes", names: Sequence[str], values: Sequence[float | None]) -> None:
    known = {index: value for index, value in enumerate(values) if value is not None}
    axes.bar([*known], [*known.values()], color=MARKS[0].colour)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1)
