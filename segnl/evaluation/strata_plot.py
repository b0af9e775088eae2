"""strata.png: where the errors are, in four charts."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from segnl.core.config import JSONDict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"  # of Okabe and Ito's palette, for any kind of colour blindness


def strata_plot(strata: JSONDict, *, title: str) -> bytes:
    """A PNG of `Strata.as_json()`; what is undefined is left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(2, 2)
    _boundaries(axes[0, 0], strata)
    _components(axes[0, 1], strata["recall_by_component"])
    _rows(axes[1, 0], strata["iou_by_row"])
    _distances(axes[1, 1], strata["iou_by_distance"])
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


def _boundaries(axes: "Axes", strata: JSONDict) -> None:
    for key, name, colour, marker in (
        ("boundary_iou", "boundary IoU: of the two boundary bands", BLUE, "o"),
        ("trimap_iou", "trimap IoU: of all pixels so near to one", ORANGE, "s"),
    ):
        known = [(int(width), value) for width, value in strata[key].items() if value is not None]
        axes.plot([w for w, _ in known], [v for _, v in known], color=colour, marker=marker, label=name)
    _titled(axes, "Near boundaries", "pixels from the boundary", "mean IoU")
    axes.set_ylim(0, 1)
    axes.legend(loc="lower right", frameon=False)


def _components(axes: "Axes", sizes: Sequence[dict[str, Any]]) -> None:
    names = [f"from {size['min_px']:,}\n{size['components']:,} of them" for size in sizes]
    _bars(axes, names, [size["recall"] for size in sizes])
    axes.tick_params(axis="x", labelsize=7)
    _titled(axes, "By size of the true connected component", "pixels", "recall")
    axes.set_ylim(0, 1)


def _rows(axes: "Axes", values: Sequence[float | None]) -> None:
    known = [(part, value) for part, value in enumerate(values) if value is not None]
    axes.barh([part for part, _ in known], [value for _, value in known], color=BLUE)
    axes.set_yticks(range(len(values)), ["top", *[""] * (len(values) - 2), "bottom"])
    axes.invert_yaxis()  # the top of the image on top
    axes.set_xlim(0, 1)
    _titled(axes, "By tenth of the height", "mean IoU", "")


def _distances(axes: "Axes", values: Sequence[float | None]) -> None:
    _bars(axes, ["centre", *[""] * (len(values) - 2), "corners"], values)
    _titled(axes, "By distance from the centre", "", "mean IoU")
    axes.set_ylim(0, 1)


def _bars(axes: "Axes", names: Sequence[str], values: Sequence[float | None]) -> None:
    known = [(part, value) for part, value in enumerate(values) if value is not None]
    axes.bar([part for part, _ in known], [value for _, value in known], color=BLUE)
    axes.set_xticks(range(len(names)), names)


def _titled(axes: "Axes", title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="both", color=GREY, alpha=0.25)
    axes.set_axisbelow(True)
