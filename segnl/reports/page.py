"""The page: verdict and table, charts, and a gallery, in one HTML file that opens from disk without a network."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from segnl.core.files import write_atomic
from segnl.evaluation.masks import VOID_RGB, WRONG_RGB
from segnl.reports.plot import PlotGroup

TEMPLATES = Path(__file__).parent / "templates"
MAX_BYTES = 24_000_000
NUDGE_PX = 12.0

STYLES = ("page.css", "charts.css", "gallery.css")
SCRIPTS = ("page.js", "masks.js", "zoom.js", "legend.js", "controls.js", "gallery.js")
"""In this order, for the last one uses the others."""

# After Okabe and Ito: colour-blind readers tell them apart; each comes with a shape and a dash of its own besides.
MARKS = (
    ("#0072b2", "●", ""), ("#d55e00", "■", "9 4"), ("#009e73", "▲", "2 4"), ("#b45a93", "◆", "9 4 2 4"),
    ("#e69f00", "★", "16 5"), ("#56b4e9", "▼", "5 3"), ("#803741", "✚", "16 4 2 4 2 4"), ("#6344ee", "✖", "1 3"),
)  # fmt: skip

KEYS = (
    (("←", "→"), "previous and next image"),
    (("m", "o"), "masks, overlay"),
    (("e",), "error map, and back"),
    (("a",), "outline of ambiguous objects"),
    (("+", "−", "0"), "zoom in, out, whole image; also a double click, or Ctrl and the wheel"),
    (("Shift ←", "Shift →", "Shift ↑", "Shift ↓"), "move the zoomed picture; also by dragging it"),
    ((",", "."), "move the slider to the left and to the right"),
    (("x",), "swap the two sides of the slider"),
    (("r",), "next order: disagreement, errors, gain of the right side over the left"),
    (("c",), "to the classes: arrows go through them, Space hides or shows one, Shift Enter shows it alone"),
    (("v",), "show all classes"),
    (("?",), "these keys"),
)
"""What the gallery's keyboard does, for its help."""


@dataclass(frozen=True)
class Mark:
    """How a head looks in charts: a CSS colour, a character, and the dashes of its lines, "" for none."""

    colour: str
    shape: str
    dash: str


def mark(index: int) -> Mark:
    """The mark of head number `index`: after eight, colours begin anew with other shapes; after 64 they repeat."""
    (colour, *_), (_, shape, dash) = MARKS[index % 8], MARKS[(index + 3 * (index // 8)) % 8]
    return Mark(colour, shape, dash)


@dataclass(frozen=True)
class Column:
    """A column of the table; `meaning` is a sentence for somebody who has not read the code."""

    title: str
    meaning: str


@dataclass(frozen=True)
class Cell:
    """text: as it stands in the table.  bar: 0..1, how far a bar behind it reaches.  note: small, beside it."""

    text: str
    bar: float | None = None
    note: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class Row:
    """A head and its cells, one for each column."""

    name: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class DotRow:
    """A line of a chart: values 0..1 or None, one for each head."""

    label: str
    values: Sequence[float | None]
    note: str = ""


@dataclass(frozen=True)
class DotChart:
    """A line for each thing measured, on it a mark for each head. guide: 0..1, where a dashed line stands."""

    title: str
    meaning: str
    rows: Sequence[DotRow]
    guide: float | None = None
    guide_label: str = ""


@dataclass(frozen=True)
class DifferenceRow:
    """A signed difference and its interval, as text and with places on the line: 0 left, 1 right. None: undefined."""

    label: str
    text: str
    interval: str
    place: float | None
    ends: tuple[float, float] | None
    is_clear: bool
    """Whether the interval lies on one side of 0."""


@dataclass(frozen=True)
class DifferenceChart:
    """Differences around 0, which stands in the middle; reach: text of the line's right end."""

    title: str
    meaning: str
    rows: Sequence[DifferenceRow]
    reach: str
    worse: str
    better: str


@dataclass(frozen=True)
class Fact:
    """A line of the control: what is claimed, what shows it, whether it holds."""

    text: str
    evidence: str
    holds: bool = True


@dataclass(frozen=True)
class Grid:
    """A small table of words. said: sentences before it.  rows: the titles, then names with cells.  meanings: by title,
    what is not plain from it.
    """

    title: str
    said: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str
    meanings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """All that a page says. gallery: as reports/gallery.py makes it."""

    title: str
    kicker: str
    verdicts: Sequence[str]
    facts: Sequence[tuple[str, str]]
    columns: Sequence[Column]
    rows: Sequence[Row]
    gallery: dict[str, Any]
    cost: PlotGroup | None = None
    ablations: Grid | None = None
    where: PlotGroup | None = None
    learning: PlotGroup | None = None
    charts: Sequence[DotChart] = ()
    differences: Sequence[DifferenceChart] = ()
    control: Sequence[Fact] = ()
    refused: Sequence[str] = ()
    gallery_note: str = ""
    best_note: str = ""
    """What it means that a cell is marked as the best."""
    commands: Sequence[str] = field(default_factory=tuple)


def render(page: Page) -> str:
    """The page as HTML, its styles, its script and all that this reads inlined."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    marks = [mark(index) for index in range(len(page.rows))]
    payload = page.gallery | {"marks": [asdict(each) for each in marks], "wrong": WRONG_RGB, "unscored": VOID_RGB}
    template = environment.get_template("page.html")
    style = "".join(_read(name) for name in STYLES)
    script = "".join(_read(name) for name in SCRIPTS)
    return template.render(
        nudge=lambda index: _nudge(index, len(page.rows)),
        page=page,
        parts=_parts(page),
        marks=marks,
        keys=KEYS,
        payload=payload,
        style=style,
        script=script,
    )


def _nudge(index: int, count: int) -> float:
    """How far below its line a head's mark stands in a chart of dots, in pixels, so that equal values do not hide one
    another.
    """
    return 0.0 if count < 2 else NUDGE_PX * (index / (count - 1) - 0.5)


def _parts(page: Page) -> list[tuple[str, str]]:
    """The sections that links at the top lead to: their ids and titles."""
    parts = [("scores", "Scores and costs")]
    parts += [(page.cost.name, page.cost.title)] if page.cost else []
    parts += [("ablations", page.ablations.title)] if page.ablations else []
    parts += [("gallery", "Pictures")] if page.gallery["images"] else []
    parts += [(page.where.name, page.where.title)] if page.where else []
    parts += [("classes-1", "Class by class")] if page.charts else []
    parts += [("against-1", "Differences by class")] if page.differences else []
    parts += [(page.learning.name, page.learning.title)] if page.learning else []
    return parts + ([("control", "What was held equal")] if page.control else [])


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def write_page(path: Path, page: Page) -> int:
    """Writes the page and returns how many images its gallery holds: the last ones are left out above 24 MB."""
    html = render(page).encode()
    while len(html) > MAX_BYTES and page.gallery["images"]:
        images = page.gallery["images"]
        # What is not images is small, so that the share of bytes is about the share of images.
        keep = min(len(images) - 1, int(len(images) * MAX_BYTES / len(html)))
        page = replace(page, gallery=page.gallery | {"images": images[:keep]})
        html = render(page).encode()
    write_atomic(path, html)
    return len(page.gallery["images"])
