"""The results of a study as a table: for the page, the terminal, Markdown and CSV; and all its numbers as JSON."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from segnl.core.run_log import read_log
from segnl.metrics.significance import ClassDifference, Comparison
from segnl.reports.page import Cell, Column, Grid, Row
from segnl.reports.table_columns import AMBIGUOUS, BOUNDARY, COSTS, MIOU, WIDTH
from segnl.studies.ablations import ablation_grid, ablations_dict
from segnl.studies.control import control_dict
from segnl.studies.results import HeadResult, StudyResults
from segnl.studies.study import PlannedRun
from segnl.studies.verdicts import bracket, pair_verdict, points, verdicts

COLUMNS = {"miou": MIOU, "against": MIOU, "boundary": BOUNDARY, "ambiguous": AMBIGUOUS, "width": WIDTH, **COSTS}
BEST = (
    "Green and bold: the best of the column. For mIoU, only a head that is separable from every other one is marked; "
    "for other scores none is, because they are not tested."
)
CHEAP = ("params", "gflops", "latency", "memory")
"""Columns in which the lowest value is the best."""


def results_dict(results: StudyResults) -> dict[str, Any]:
    """Returns the content of compare.json."""
    study = results.study
    return {
        "study": study.name,
        "split": study.cfg.split,
        "num_images": len(results.any_evaluation.sample_ids),
        "seeds": study.cfg.seeds,
        "steps": study.runs[0].recipe.train.max_steps,
        "heads": heads_dict(results.heads),
        "pairs": pairs_dict(results.pairs, results.classes),
        "verdicts": verdicts(results),
        "commonest_class_miou": results.any_evaluation.most_frequent_class()[1],
        "runs": {run.name: _run_dict(run, results.evaluations[run.name].metrics) for run in study.runs},
        "ablations": ablations_dict(results.ablations),
        "control": control_dict(results.hashes, results.refused, results.logged),
        "complete": True,
    }


def _run_dict(run: PlannedRun, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {key: metrics.get(key) for key in ("miou", "boundary_iou", "pixel_acc", "ambiguous", "checkpoint")} | {
        "starts": sum(line.get("event") == "start" for line in read_log(run.folder / "log.jsonl"))
    }


def heads_dict(heads: Sequence[HeadResult]) -> dict[str, Any]:
    """Returns `heads` of compare's JSON; null for what was not measured."""
    return {
        head.name: {
            "miou_mean": head.miou_mean if math.isfinite(head.miou_mean) else None,
            "miou_sd": head.miou_sd,
            "runs": len(head.miou),
            "boundary_iou": head.boundary_mean,
            "params": head.params,
            "gflops": head.gflops,
            "train_images_per_s": head.images_per_s,
            "latency_ms": head.latency_ms,
            "peak_mib": head.peak_mib,
            "matched_channels": head.width.channels if head.width else None,
            "matched_deviation": head.width.deviation if head.width else None,
            "ambiguous_acc": head.ambiguous_mean,
        }
        for head in heads
    }


def pairs_dict(
    pairs: Sequence[Comparison], classes: Sequence[Mapping[str, ClassDifference]] = ()
) -> list[dict[str, Any]]:
    """Returns `pairs` of compare's JSON; null for what is unknown. classes: for each pair, by class name."""
    keys = ("difference", "low", "high", "is_about_heads")
    mappings = []
    for i, pair in enumerate(pairs):
        mapping = asdict(pair) | {"separable": pair.is_separable, "verdict": pair_verdict(pair, len(pairs))}
        if classes:
            mapping["per_class"] = {name: {key: getattr(own, key) for key in keys} for name, own in classes[i].items()}
        mappings.append(mapping)
    return mappings


def pair_with(pairs: Sequence[Comparison], head: str, control: str) -> Comparison | None:
    """Returns the comparison of a head with the control."""
    return next((pair for pair in pairs if (pair.a, pair.b) == (head, control)), None)


def table_columns(heads: Sequence[HeadResult], pairs: Sequence[Comparison]) -> list[Column]:
    """Returns the columns that this study has values for."""
    control = _control_column(heads[0].name, pairs)
    return [control if key == "against" else COLUMNS[key] for key in _keys(heads)]


def _control_column(control: str, pairs: Sequence[Comparison]) -> Column:
    meaning = f"This head's mIoU minus that of {control}, the control, in points. "
    if any(pair.p is not None for pair in pairs):
        meaning += (
            "In brackets the 95 % interval for new seeds and new images: if it contains 0, the difference may be "
            "chance. An interval marked 'images only' is for these networks on new images: there is only one seed."
        )
    else:
        meaning += (
            "In brackets the 95 % interval for these same networks on new images only. It leaves out the spread over "
            "seeds, which one seed cannot show, so it says nothing about the heads."
        )
    return Column(f"vs {control}", meaning)


def _keys(heads: Sequence[HeadResult]) -> list[str]:
    optional = ("boundary", "ambiguous", "latency", "memory", "width")
    has = {key: any(_value(head, key) is not None for head in heads) for key in optional}
    return [key for key in COLUMNS if (has | {"against": len(heads) > 1}).get(key, True)]


def table_rows(heads: Sequence[HeadResult], pairs: Sequence[Comparison]) -> list[Row]:
    """Returns the table's cells, one row for each head; the best of a column is marked as BEST says."""
    columns = [_column(heads, pairs, key) for key in _keys(heads)]
    return [Row(head.name, cells) for head, cells in zip(heads, zip(*columns, strict=True), strict=True)]


def _column(heads: Sequence[HeadResult], pairs: Sequence[Comparison], key: str) -> list[Cell]:
    if key == "against":
        control = heads[0].name
        return [Cell("control"), *(_difference_cell(pair_with(pairs, head.name, control)) for head in heads[1:])]
    values = [_value(head, key) for head in heads]
    largest = max((value for value in values if value is not None), default=0)
    cells = [_cell(head, key, value, largest) for head, value in zip(heads, values, strict=True)]
    if key == "miou":
        best = separable_best(heads, pairs)
        return [replace(cell, is_best=head.name == best) for head, cell in zip(heads, cells, strict=True)]
    by_text = {cell.text: value for cell, value in zip(cells, values, strict=True) if value is not None}
    if key in ("boundary", "ambiguous", "width") or len(by_text) < 2:  # no value is the best of equal ones
        return cells
    best = (min if key in CHEAP else max)(by_text, key=lambda text: by_text[text])
    return [replace(cell, is_best=cell.text == best) for cell in cells]


def separable_best(heads: Sequence[HeadResult], pairs: Sequence[Comparison]) -> str | None:
    """Returns the head with the highest mIoU if it is separable from every other head that has runs."""
    scored = [head for head in heads if head.miou]
    if len(scored) < 2:
        return None
    best = max(scored, key=lambda head: head.miou_mean).name
    own = [pair for pair in pairs if best in (pair.a, pair.b) and pair.difference is not None]
    return best if own and all(pair.is_separable for pair in own) else None


def _difference_cell(pair: Comparison | None) -> Cell:
    if pair is None or pair.difference is None:
        return Cell("–")
    if pair.low is not None:
        return Cell(points(pair.difference), note=bracket(pair.low, pair.high))
    images = bracket(pair.images_low, pair.images_high)
    return Cell(points(pair.difference), note=f"{images} images only" if images else "")


def _value(head: HeadResult, key: str) -> float | None:
    return {
        "miou": head.miou_mean if head.miou else None,
        "boundary": head.boundary_mean,
        "ambiguous": head.ambiguous_mean,
        "params": float(head.params),
        "gflops": head.gflops,
        "speed": head.images_per_s,
        "latency": head.latency_ms,
        "memory": head.peak_mib,
        "width": float(head.width.channels) if head.width else None,
    }[key]


def _cell(head: HeadResult, key: str, value: float | None, largest: float) -> Cell:
    if value is None:
        return Cell("–")
    if key == "width" and head.width is not None:
        deviation = f"({100 * head.width.deviation:+.1f} %)"
        return Cell(str(head.width.channels), note="(target)" if head.width.is_target else deviation)
    if key == "miou":
        note = f"± {100 * head.miou_sd:.2f} over {len(head.miou)} seeds" if head.miou_sd is not None else ""
        return Cell(f"{100 * value:.2f}", value, note)
    if key in ("boundary", "ambiguous"):
        return Cell(f"{100 * value:.2f}" if key == "boundary" else f"{100 * value:.1f}", value)
    text = f"{value / 1e6:.2f} M" if key == "params" else f"{value:.2f}" if key == "gflops" else f"{value:.1f}"
    return Cell(text, value / largest if largest else None)


def csv_text(heads: Sequence[HeadResult], pairs: Sequence[Comparison]) -> str:
    """Returns the heads' JSON as CSV, with the difference from the control; empty for what was not measured."""
    keys = ("difference", "low", "high", "images_low", "images_high", "p_holm")
    rows = []
    for name, values in heads_dict(heads).items():
        pair = pair_with(pairs, name, heads[0].name)
        differences = {f"{key}_to_control": getattr(pair, key, None) for key in keys}
        verdict = pair_verdict(pair, len(pairs)) if pair else ""
        rows.append({"head": name, **values, **differences, "verdict": verdict})
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _cells(heads: Sequence[HeadResult], pairs: Sequence[Comparison]) -> list[list[str]]:
    """Returns the table as text, the titles first."""
    titles = ["head", *(column.title for column in table_columns(heads, pairs))]
    rows = table_rows(heads, pairs)
    return [titles, *([row.name, *(f"{cell.text} {cell.note}".strip() for cell in row.cells)] for row in rows)]


def markdown(results: StudyResults) -> str:
    """Returns verdicts, table and ablations with their explanations as Markdown."""
    first, *rest = verdicts(results)
    columns = table_columns(results.heads, results.pairs)
    lines = [f"**{first}**", ""]
    lines += [f"- {sentence}" for sentence in rest]
    lines += [f"- **refused:** {name} {reason}" for name, reason in results.refused.items()]
    lines += ["", *markdown_table(_cells(results.heads, results.pairs)), ""]
    lines += [f"- {column.title}: {column.meaning}" for column in columns]
    grid = ablation_grid(results.ablations)
    return "\n".join(lines + (_ablations_markdown(grid) if grid else [])) + "\n"


def _ablations_markdown(grid: Grid) -> list[str]:
    lines = ["", f"## {grid.title}", "", *(f"- {sentence}" for sentence in grid.sentences), ""]
    lines += [*markdown_table(grid.rows), "", grid.note, ""]
    return lines + [f"- {name}: {meaning}" for name, meaning in grid.meanings.items()]


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table, numbers on the right. rows: the titles first."""
    titles, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return [titles, "|---|" + "---:|" * (len(rows[0]) - 1), *rest]


def terminal_text(results: StudyResults, *, width: int | None = None) -> str:
    """Returns verdicts, table and ablations for a terminal of `width` characters."""
    lines = verdicts(results)
    lines += [f"refused: {name} {reason}" for name, reason in results.refused.items()]
    lines += ["", aligned(_cells(results.heads, results.pairs), width=width), ""]
    grid = ablation_grid(results.ablations)
    if grid:
        lines += [grid.title, *grid.sentences, "", aligned(grid.rows), "", grid.note]
        lines += [*(f"{name}: {meaning}" for name, meaning in grid.meanings.items()), ""]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]], *, width: int | None = None) -> str:
    """Returns aligned columns; a table wider than `width` is split, and each piece repeats the first column.

    rows: the titles first.
    """
    first, *others = zip(*rows, strict=True)
    names = _padded(first, is_left=True)
    pieces: list[list[list[str]]] = [[]]
    for column in (_padded(texts, is_left=False) for texts in others):
        used = len(names[0]) + sum(2 + len(texts[0]) for texts in pieces[-1])
        if width is not None and pieces[-1] and used + 2 + len(column[0]) > width:
            pieces.append([])
        pieces[-1].append(column)
    return "\n\n".join(_joined(names, piece) for piece in pieces)


def _padded(texts: Sequence[str], *, is_left: bool) -> list[str]:
    width = max(map(len, texts))
    return [text.ljust(width) if is_left else text.rjust(width) for text in texts]


def _joined(names: Sequence[str], columns: Sequence[Sequence[str]]) -> str:
    titles, *rows = ["  ".join(line) for line in zip(names, *columns, strict=True)]
    return "\n".join([titles, "-" * len(titles), *rows])
