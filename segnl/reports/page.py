"""The page of a study or of inspected runs: one HTML file that opens from disk without a network.

It holds the verdict, the table, the charts and a gallery of images and masks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segnl.core.files import utf8, write_atomic
from segnl.core.outputs import marked
from segnl.evaluation.masks import IGNORED_RGB, WRONG_RGB
from segnl.reports.chart_style import DIVERGING, SEQUENTIAL, mark
from segnl.reports.plot import PlotGroup
from segnl.reports.sight import SightGroup

if TYPE_CHECKING:
    from jinja2 import Template

MAX_BYTES = 24_000_000


@dataclass(frozen=True)
class Column:
    """A column of the table. meaning: a sentence for readers who have not seen the code."""

    title: str
    meaning: str


@dataclass(frozen=True)
class Cell:
    """A cell of the table. bar: 0..1, the length of a bar below the text. note: small text beside it."""

    text: str
    bar: float | None = None
    note: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class DotRow:
    """A row of a chart. values: 0..1 or None, one for each head."""

    label: str
    values: Sequence[float | None]
    note: str = ""


@dataclass(frozen=True)
class DotChart:
    """A chart with a mark for each head in every row. guide: 0..1, position of a dashed line."""

    title: str
    meaning: str
    rows: Sequence[DotRow]
    guide: float | None = None
    guide_label: str = ""


Interval = tuple[float | None, float | None, float | None]
"""A difference, the low and the high end of its interval, as fractions; None where undefined."""


@dataclass(frozen=True)
class DifferenceChart:
    """Differences around 0 in the middle, by name. reach: of the scale, in the unit of the differences."""

    title: str
    meaning: str
    rows: Mapping[str, Interval]
    reach: float
    worse: str
    better: str


@dataclass(frozen=True)
class Fact:
    """A line of the control: a claim, its evidence, and whether the claim holds."""

    text: str
    evidence: str
    holds: bool = True


@dataclass(frozen=True)
class Grid:
    """A small table of text. sentences: above it. rows: the titles, then names with cells. meanings: of the titles."""

    title: str
    sentences: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str
    meanings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Attention:
    """Averages of attention: a table, curves and charts of classes; the rows themselves are in the gallery."""

    table: Grid
    curves: PlotGroup
    charts: Sequence[DotChart]


@dataclass(frozen=True)
class Page:
    """Content of a page. rows: cells by head. gallery: from `gallery.gallery`. best_note: explains the marked cells."""

    title: str
    kicker: str
    verdicts: Sequence[str]
    facts: Sequence[tuple[str, str]]
    columns: Sequence[Column]
    rows: Mapping[str, Sequence[Cell]]
    gallery: dict[str, Any]
    cost: PlotGroup | None = None
    ablations: Grid | None = None
    attention: Attention | None = None
    error_map: PlotGroup | None = None
    learning: PlotGroup | None = None
    charts: Sequence[DotChart] = ()
    differences: Sequence[DifferenceChart] = ()
    control: Sequence[Fact] = ()
    refused: Sequence[str] = ()
    gallery_note: str = ""
    best_note: str = ""
    sights: Sequence[SightGroup] = ()
    commands: Sequence[str] = ()


def template(name: str) -> "Template":
    """Returns a template of segnl/reports/templates; a name that it is not given is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("segnl.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def render(page: Page) -> str:
    """Returns the page as HTML, with its styles, scripts and their data inlined."""
    colours = {
        "marks": [{"colour": mark(i).colour, "shape": mark(i).shape} for i in range(len(page.rows))],
        "scales": {"sequential": SEQUENTIAL, "diverging": DIVERGING},
        "wrong": WRONG_RGB,
        "ignored": IGNORED_RGB,
    }
    payload = page.gallery | colours
    return template("page.html").render(page=page, heads=list(page.rows), mark=mark, payload=payload)


def write_page(path: Path, page: Page, command: str) -> int:
    """Writes the page and returns the number of images in its gallery; a page above 24 MB loses the last ones.

    command: that of segnl which writes it; see core/outputs.py.
    """
    html = utf8(render(page)).encode()
    while len(html) > MAX_BYTES and page.gallery["images"]:
        images = page.gallery["images"]
        # Nearly all bytes belong to images, so the fraction of bytes is about the fraction of images.
        keep = min(len(images) - 1, int(len(images) * MAX_BYTES / len(html)))
        page = replace(page, gallery=page.gallery | {"images": images[:keep]})
        html = utf8(render(page)).encode()
    write_atomic(path, marked(html, command))
    return len(page.gallery["images"])
