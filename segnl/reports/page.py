"""The page of a study or of inspected runs: one HTML file that opens from disk without a network.

It holds the verdict, the table, the charts and a gallery of images and masks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segnl.core.files import write_atomic
from segnl.evaluation.masks import IGNORED_RGB, WRONG_RGB
from segnl.reports.chart_style import MARKS, mark
from segnl.reports.plot import PlotGroup

TEMPLATES = Path(__file__).parent / "templates"
MAX_BYTES = 24_000_000
MAX_OFFSET_PX = 12.0

STYLES = ("page.css", "charts.css", "gallery.css")
SCRIPTS = ("page.js", "masks.js", "zoom.js", "legend.js", "controls.js", "gallery.js")
"""In this order, because the last one uses the others."""

KEYS = (
    (("←", "→"), "previous and next image"),
    (("m", "o"), "masks, overlay"),
    (("e",), "error map, and back"),
    (("a",), "outline of ambiguous objects"),
    (("+", "−", "0"), "zoom in, zoom out, whole image; also double click, or Ctrl and the wheel"),
    (("Shift ←", "Shift →", "Shift ↑", "Shift ↓"), "move the zoomed image; also by dragging"),
    ((",", "."), "move the slider left and right"),
    (("x",), "swap the two sides of the slider"),
    (("r",), "next order: disagreement, errors, gain of the right side over the left"),
    (("c",), "go to the classes: arrows move, Space hides or shows a class, Shift Enter shows it alone"),
    (("v",), "show all classes"),
    (("?",), "this help"),
)
"""Keys of the gallery and their effects, for its help."""


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
class Row:
    """A row of the table: a head and its cells, one for each column."""

    name: str
    cells: Sequence[Cell]


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


@dataclass(frozen=True)
class DifferenceRow:
    """A signed difference and its interval, as text and as positions from 0 (left) to 1 (right). None: undefined."""

    label: str
    text: str
    interval: str
    position: float | None
    ends: tuple[float, float] | None
    is_clear: bool
    """The interval lies on one side of 0."""


@dataclass(frozen=True)
class DifferenceChart:
    """Differences around 0 in the middle. reach: the text at the right end of the scale."""

    title: str
    meaning: str
    rows: Sequence[DifferenceRow]
    reach: str
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
class Page:
    """Content of a page. gallery: from `gallery.gallery`. best_note: explains the marked cells."""

    title: str
    kicker: str
    verdicts: Sequence[str]
    facts: Sequence[tuple[str, str]]
    columns: Sequence[Column]
    rows: Sequence[Row]
    gallery: dict[str, Any]
    cost: PlotGroup | None = None
    ablations: Grid | None = None
    error_map: PlotGroup | None = None
    learning: PlotGroup | None = None
    charts: Sequence[DotChart] = ()
    differences: Sequence[DifferenceChart] = ()
    control: Sequence[Fact] = ()
    refused: Sequence[str] = ()
    gallery_note: str = ""
    best_note: str = ""
    commands: Sequence[str] = ()


def render(page: Page) -> str:
    """Returns the page as HTML, with its styles, scripts and their data inlined."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    marks = [mark(index) for index in range(len(page.rows))]
    colours = {
        "marks": [{"colour": head.colour, "shape": head.shape} for head in marks],
        "wrong": WRONG_RGB,
        "ignored": IGNORED_RGB,
    }
    return environment.get_template("page.html").render(
        page=page,
        sections=_sections(page),
        marks=marks,
        icon_colours=[head.colour for head in MARKS[:4]],
        offset=lambda index: _offset_px(index, len(page.rows)),
        keys=KEYS,
        payload=page.gallery | colours,
        style="".join(_read(name) for name in STYLES),
        script="".join(_read(name) for name in SCRIPTS),
    )


def _offset_px(index: int, count: int) -> float:
    """Returns how far below the middle a head's mark is drawn, so that equal values do not hide one another."""
    return 0.0 if count < 2 else MAX_OFFSET_PX * (index / (count - 1) - 0.5)


def _sections(page: Page) -> list[tuple[str, str]]:
    """Returns ids and titles of the sections that the links at the top lead to."""
    sections = [("scores", "Scores and costs")]
    sections += [(page.cost.name, page.cost.title)] if page.cost else []
    sections += [("ablations", page.ablations.title)] if page.ablations else []
    sections += [("gallery", "Pictures")] if page.gallery["images"] else []
    sections += [(page.error_map.name, page.error_map.title)] if page.error_map else []
    sections += [("classes-1", "Class by class")] if page.charts else []
    sections += [("against-1", "Differences by class")] if page.differences else []
    sections += [(page.learning.name, page.learning.title)] if page.learning else []
    return sections + ([("control", "What was kept equal")] if page.control else [])


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def write_page(path: Path, page: Page) -> int:
    """Writes the page and returns the number of images in its gallery; a page above 24 MB loses the last ones."""
    html = render(page).encode()
    while len(html) > MAX_BYTES and page.gallery["images"]:
        images = page.gallery["images"]
        # Nearly all bytes belong to images, so the fraction of bytes is about the fraction of images.
        keep = min(len(images) - 1, int(len(images) * MAX_BYTES / len(html)))
        page = replace(page, gallery=page.gallery | {"images": images[:keep]})
        html = render(page).encode()
    write_atomic(path, html)
    return len(page.gallery["images"])
