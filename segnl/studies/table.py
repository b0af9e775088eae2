"""A study's results: one line a head, as JSON, CSV, Markdown and for the terminal; no verdict that is not backed."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from segnl.metrics.statistics.significance import ClassDifference, Comparison
from segnl.reports.page import Cell, Column, Row
from segnl.reports.table_columns import AMBIGUOUS, BOUNDARY, COSTS, MIOU, WIDTH
from segnl.studies.matching import Width
from segnl.studies.verdicts import ONE_SEED, bracket, pair_verdict, points, study_verdicts

COLUMNS = {"miou": MIOU, "against": MIOU, "boundary": BOUNDARY, "ambiguous": AMBIGUOUS, "width": WIDTH, **COSTS}
BEST = (
    "Green and bold: the best of the column. In mIoU it is marked only where its head is separable from every other "
    "one; other scores are not tested, so that none is marked in them."
)
CHEAP = ("params", "gflops", "latency", "memory")
"""Columns whose lowest value is the best."""


@dataclass(frozen=True)
class HeadResult:
    """What a study found of one head. miou, ambiguous, boundary: one value for each run that counts; fractions."""

    name: str
    miou: tuple[float, ...]
    ambiguous: tuple[float, ...]
    params: int
    gflops: float
    images_per_s: float | None
    boundary: tuple[float, ...] = ()
    latency_ms: float | None = None
    peak_mib: float | None = None
    width: Width | None = None
    """Where the study matches the heads' sizes."""

    @property
    def miou_mean(self) -> float:
        return statistics.fmean(self.miou) if self.miou else math.nan

    @property
    def miou_sd(self) -> float | None:
        """Over seeds; None for one."""
        return statistics.stdev(self.miou) if len(self.miou) > 1 else None

    @property
    def ambiguous_mean(self) -> float | None:
        return statistics.fmean(self.ambiguous) if self.ambiguous else None

    @property
    def boundary_mean(self) -> float | None:
        return statistics.fmean(self.boundary) if self.boundary else None


def heads_dict(results: Sequence[HeadResult]) -> dict[str, Any]:
    """`heads` of compare's JSON; null for what was not measured."""
    return {
        each.name: {
            "miou_mean": _plain(each.miou_mean),
            "miou_sd": each.miou_sd,
            "runs": len(each.miou),
            "boundary_iou": each.boundary_mean,
            "params": each.params,
            "gflops": each.gflops,
            "train_images_per_s": each.images_per_s,
            "latency_ms": each.latency_ms,
            "peak_mib": each.peak_mib,
            "matched_channels": each.width.channels if each.width else None,
            "matched_deviation": each.width.deviation if each.width else None,
            "ambiguous_acc": each.ambiguous_mean,
        }
        for each in results
    }


def pairs_dict(
    pairs: Sequence[Comparison], classes: Sequence[Mapping[str, ClassDifference]] = ()
) -> list[dict[str, Any]]:
    """`pairs` of compare's JSON; null for what cannot be known. classes: for each pair, by class name."""
    mapping = []
    for i, pair in enumerate(pairs):
        known = asdict(pair) | {"separable": pair.is_separable, "verdict": pair_verdict(pair, len(pairs))}
        if classes:
            keys = ("difference", "low", "high", "is_about_heads")
            known["per_class"] = {name: {key: getattr(each, key) for key in keys} for name, each in classes[i].items()}
        mapping.append(known)
    return mapping


def verdicts(results: Sequence[HeadResult], pairs: Sequence[Comparison]) -> list[str]:
    """What may be said, the first sentence first; control: the first head."""
    known = [each for each in results if each.miou]
    if not known:
        return ["No run of this study counts; the reasons stand below."]
    if any(pair.p is not None for pair in pairs):
        return study_verdicts(pairs)
    is_one = min(len(each.miou) for each in known) == 1
    lead = ONE_SEED if is_one else "No two heads of this study can be compared."
    if len(known) < 2:
        return [lead if is_one else f"{len(known[0].miou)} seeds of one head: nothing to compare it with."]
    return [lead, _ranked(known)] if is_one else [lead, *(pair_verdict(pair, len(pairs)) for pair in pairs)]


def _ranked(known: Sequence[HeadResult]) -> str:
    best, control = max(known, key=lambda each: each.miou_mean), known[0]
    ranked = f"{best.name} has the highest mIoU here, {100 * best.miou_mean:.1f} %"
    if best is control:
        second = max((each for each in known if each is not best), key=lambda each: each.miou_mean)
        ranked += f", {100 * (best.miou_mean - second.miou_mean):.1f} points above {second.name}; it is the control."
    else:
        ranked += f", {100 * (best.miou_mean - control.miou_mean):.1f} points above the control, {control.name}."
    return ranked + " Published reruns of one recipe differ by 1 to 2 points: another seed may turn the order round."


def against(pairs: Sequence[Comparison], name: str, control: str) -> Comparison | None:
    """The pair that holds the head `name` against the control."""
    return next((pair for pair in pairs if (pair.a, pair.b) == (name, control)), None)


def control_column(control: str, pairs: Sequence[Comparison]) -> Column:
    """The column of differences, with the meaning that its brackets have in this study."""
    about = f"This head's mIoU less that of {control}, the control, in points. "
    if any(pair.p is not None for pair in pairs):
        about += (
            "In brackets the 95 % interval for new seeds and new images: where it holds 0 the difference may be "
            "chance. What is marked 'images only' has one seed: its interval is for these networks on new images."
        )
    else:
        about += (
            "In brackets the 95 % interval for these same networks on new images only: it leaves out the spread over "
            "seeds, which one seed cannot show, so that it says nothing about the heads."
        )
    return Column(f"vs {control}", about)


def table_columns(results: Sequence[HeadResult], pairs: Sequence[Comparison]) -> list[Column]:
    """Those that this study has values for."""
    own = {"against": control_column(results[0].name, pairs)}
    return [own.get(key, COLUMNS[key]) for key in _keys(results)]


def _keys(results: Sequence[HeadResult]) -> list[str]:
    has = {"ambiguous": any(each.ambiguous for each in results), "against": len(results) > 1}
    has |= {"boundary": any(each.boundary for each in results)}
    has |= {key: any(_value(each, key) is not None for each in results) for key in ("latency", "memory", "width")}
    return [key for key in COLUMNS if has.get(key, True)]


def table_rows(results: Sequence[HeadResult], pairs: Sequence[Comparison]) -> list[Row]:
    """The table's cells, one row a head, in the study's order; the best of a column is marked as BEST says."""
    columns = [_column(results, pairs, key) for key in _keys(results)]
    return [Row(each.name, [column[i] for column in columns]) for i, each in enumerate(results)]


def _column(results: Sequence[HeadResult], pairs: Sequence[Comparison], key: str) -> list[Cell]:
    if key == "against":
        control = results[0].name
        return [_against_cell(against(pairs, each.name, control), is_control=each.name == control) for each in results]
    values = [_value(each, key) for each in results]
    cells = [_cell(each, key, values, value) for each, value in zip(results, values, strict=True)]
    known = {cell.text: value for cell, value in zip(cells, values, strict=True) if value is not None}
    if key == "miou":
        best = separable_best(results, pairs)
        return [replace(cell, is_best=each.name == best) for each, cell in zip(results, cells, strict=True)]
    if key in ("boundary", "ambiguous", "width") or len(known) < 2:  # of what reads alike nothing is best
        return cells
    text = (min if key in CHEAP else max)(known, key=lambda each: known[each])
    return [replace(cell, is_best=cell.text == text) for cell in cells]


def separable_best(results: Sequence[HeadResult], pairs: Sequence[Comparison]) -> str | None:
    """The head with the highest mIoU, where it is separable from every other head that has runs; None elsewhere."""
    known = [each for each in results if each.miou]
    if len(known) < 2:
        return None
    best = max(known, key=lambda each: each.miou_mean).name
    own = [pair for pair in pairs if best in (pair.a, pair.b) and pair.difference is not None]
    return best if own and all(pair.is_separable for pair in own) else None


def _against_cell(pair: Comparison | None, *, is_control: bool) -> Cell:
    if is_control:
        return Cell("control")
    if pair is None or pair.difference is None:
        return Cell("–")
    if pair.low is not None:
        return Cell(points(pair.difference), note=bracket(pair.low, pair.high))
    images = bracket(pair.images_low, pair.images_high)
    return Cell(points(pair.difference), note=f"{images} images only" if images else "")


def _value(result: HeadResult, key: str) -> float | None:
    return {
        "miou": result.miou_mean if result.miou else None,
        "against": None,
        "boundary": result.boundary_mean,
        "ambiguous": result.ambiguous_mean,
        "params": float(result.params),
        "gflops": result.gflops,
        "speed": result.images_per_s,
        "latency": result.latency_ms,
        "memory": result.peak_mib,
        "width": float(result.width.channels) if result.width else None,
    }[key]


def _cell(result: HeadResult, key: str, column: Sequence[float | None], value: float | None) -> Cell:
    if value is None:
        return Cell("–")
    if key == "width" and result.width is not None:
        left = f"({100 * result.width.deviation:+.1f} %)"
        return Cell(str(result.width.channels), note="(target)" if result.width.is_target else left)
    if key == "miou":
        note = f"± {100 * result.miou_sd:.2f} over {len(result.miou)} seeds" if result.miou_sd is not None else ""
        return Cell(f"{100 * value:.2f}", value, note)
    if key in ("boundary", "ambiguous"):
        return Cell(f"{100 * value:.2f}" if key == "boundary" else f"{100 * value:.1f}", value)
    text = f"{value / 1e6:.2f} M" if key == "params" else f"{value:.2f}" if key == "gflops" else f"{value:.1f}"
    most = max(other for other in column if other is not None)
    return Cell(text, value / most if most else None)


def markdown(
    results: Sequence[HeadResult], pairs: Sequence[Comparison], refused: Sequence[str] = (), *, said: Sequence[str]
) -> str:
    """What is said, the verdict first; what was refused; then a Markdown table, then what its columns mean."""
    columns, rows = table_columns(results, pairs), table_rows(results, pairs)
    first, *rest = said
    lines = [
        "| head | " + " | ".join(column.title for column in columns) + " |",
        "|---|" + "---:|" * len(columns),
        *("| " + " | ".join([row.name, *(_joined(cell) for cell in row.cells)]) + " |" for row in rows),
    ]
    above = [f"**{first}**", "", *(f"- {line}" for line in rest), *(f"- **refused:** {line}" for line in refused)]
    meanings = [f"- {column.title}: {column.meaning}" for column in columns]
    return "\n".join([*above, "", *lines, "", *meanings]) + "\n"


def csv_text(results: Sequence[HeadResult], pairs: Sequence[Comparison]) -> str:
    """The heads' JSON as CSV, with the difference to the control beside it; empty for what was not measured."""
    file = io.StringIO()
    keys = ("difference", "low", "high", "images_low", "images_high", "p_holm")
    writer: csv.DictWriter[str] | None = None
    for name, values in heads_dict(results).items():
        pair = against(pairs, name, results[0].name)
        compared = {f"{key}_to_control": getattr(pair, key, None) for key in keys}
        row = {"head": name, **values, **compared, "verdict": pair_verdict(pair, len(pairs)) if pair else ""}
        if writer is None:
            writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return file.getvalue()


def terminal(results: Sequence[HeadResult], pairs: Sequence[Comparison], *, width: int | None = None) -> str:
    """The table in aligned columns; in several parts below one another, each with the heads' names, where it is wider
    than `width` characters.
    """
    columns, rows = table_columns(results, pairs), table_rows(results, pairs)
    names = padded(["head", *(row.name for row in rows)], is_left=True)
    blocks = [
        padded([column.title, *(_joined(row.cells[i]) for row in rows)], is_left=False)
        for i, column in enumerate(columns)
    ]
    return "\n\n".join(_lines(names, part) for part in _parts(names, blocks, width))


def padded(texts: Sequence[str], *, is_left: bool) -> list[str]:
    """Texts of one width, filled with spaces."""
    width = max(map(len, texts))
    return [text.ljust(width) if is_left else text.rjust(width) for text in texts]


def grid_lines(grid: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the titles first, in aligned columns."""
    first, *rest = ([line[i] for line in grid] for i in range(len(grid[0])))
    return _lines(padded(first, is_left=True), [padded(column, is_left=False) for column in rest])


def _parts(names: list[str], blocks: list[list[str]], width: int | None) -> list[list[list[str]]]:
    parts: list[list[list[str]]] = [[]]
    for block in blocks:
        taken = len(names[0]) + sum(2 + len(each[0]) for each in parts[-1])
        if width is not None and parts[-1] and taken + 2 + len(block[0]) > width:
            parts.append([])
        parts[-1].append(block)
    return parts


def _lines(names: list[str], blocks: Sequence[list[str]]) -> str:
    head, *rest = ["  ".join(line) for line in zip(names, *blocks, strict=True)]
    return "\n".join([head, "-" * len(head), *rest])


def _joined(cell: Cell) -> str:
    return f"{cell.text} {cell.note}".strip()


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
