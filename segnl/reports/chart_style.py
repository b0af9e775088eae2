"""The one look of every chart: the marks that tell series apart, and matplotlib figures in that style.

The page of a study draws its charts as HTML and SVG, which follow its light and dark theme; `segnl curves` and
`segnl eval --strata` write image files with matplotlib. Both take colours and shapes from MARKS. Imports no torch.
"""

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

from segnl.core.errors import MachineError, first_line
from segnl.core.files import utf8
from segnl.core.log import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

INK, GRID, SPINE = "#333333", "#d9d9d9", "#999999"
PAGE_LINE_PX = 2.2  # width of a line on the page, to which the dashes below belong


@dataclass(frozen=True)
class Mark:
    """Look of one series: an RGB colour, a character, the dashes of its lines in pixels ("" for none), and
    matplotlib's name for the character's shape.
    """

    colour: str
    shape: str
    dash: str
    marker: str

    def line_style(self) -> dict[str, Any]:
        """Returns the keyword arguments of matplotlib for a line of this colour and these dashes."""
        lengths = tuple(float(length) / PAGE_LINE_PX for length in self.dash.split())
        return {"color": self.colour, "linestyle": (0, lengths) if lengths else "-"}


# The first colours are those of Okabe and Ito; readers with any kind of colour blindness can tell all eight apart.
MARKS = (
    Mark("#0072b2", "●", "", "o"),
    Mark("#d55e00", "■", "9 4", "s"),
    Mark("#009e73", "▲", "2 4", "^"),
    Mark("#b45a93", "◆", "9 4 2 4", "D"),
    Mark("#e69f00", "★", "16 5", "*"),
    Mark("#56b4e9", "▼", "5 3", "v"),
    Mark("#803741", "✚", "16 4 2 4 2 4", "P"),
    Mark("#6344ee", "✖", "1 3", "X"),
)


# Opacity and RGB at equal steps, over a darkened grey photo. Brightness alone orders the first, so that any reader can
# read it; the second is blue below 0 and orange above, and clear at 0.
SEQUENTIAL = (
    (0.0, (59, 15, 112)),
    (0.62, (114, 31, 129)),
    (0.8, (205, 64, 113)),
    (0.9, (253, 149, 103)),
    (0.97, (252, 253, 191)),
)
DIVERGING = (
    (0.95, (120, 190, 255)),
    (0.8, (33, 113, 201)),
    (0.0, (128, 128, 128)),
    (0.8, (214, 96, 10)),
    (0.95, (255, 196, 110)),
)


def mark(index: int) -> Mark:
    """Returns the mark of series `index`: after eight, the colours repeat with other shapes; after 64 all repeats."""
    colour, shape = MARKS[index % 8], MARKS[(index + 3 * (index // 8)) % 8]
    return Mark(colour.colour, shape.shape, shape.dash, shape.marker)


def in_own_style(draw: Callable[P, bytes]) -> Callable[P, bytes]:
    """Lets a function draw as if there were no matplotlibrc, which may be the user's or one of the working folder."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> bytes:
        own = Path("matplotlibrc")
        try:
            if own.exists() and not own.is_file():
                raise OSError("is a pipe or a device")
            import matplotlib
        except ImportError as err:
            raise MachineError(f"no picture: matplotlib cannot be imported ({first_line(err)}); install it") from err
        except (OSError, ValueError, TypeError) as err:
            raise MachineError(
                f"{own.absolute()}: matplotlib cannot read it ({first_line(err)}); move it aside"
            ) from err
        with matplotlib.rc_context(dict(matplotlib.rcParamsDefault)):
            return draw(*args, **kwargs)

    return drawn


def new_figure(width_in: float, height_in: float) -> "Figure":
    """Returns an empty figure that needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=150, layout="constrained")


def style_axes(
    axes: "Axes", *, title: str = "", x_label: str = "", y_label: str = "", grid_along: Literal["x", "y"] = "y"
) -> None:
    """Labels the axes and gives them a faint grid and no frame."""
    axes.set_title(title, fontsize=11, color=INK)
    axes.set_xlabel(x_label, fontsize=11, color=INK)
    axes.set_ylabel(y_label, fontsize=11, color=INK)
    axes.grid(axis=grid_along, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SPINE)


def figure_bytes(figure: "Figure", kind: str = "png") -> bytes:
    """Returns the figure as a file of that kind: png, svg or pdf. A name is drawn as it is: `$` begins no formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        if not text.get_text().isascii() or not text.get_text().isprintable():
            text.set_text(printable(utf8(text.get_text())))  # an SVG with a control character is not opened
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    return file.getvalue()
