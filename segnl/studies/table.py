"""The results of a study as a table: for the page, the terminal, Markdown and CSV; and all its numbers as JSON."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from segnl.metrics.statistics.comparison import ClassDifference, Comparison
from segnl.metrics.statistics.references import References
from segnl.reports.page import Cell, Column
from segnl.reports.table_columns import OF_HEAD
from segnl.studies.ablations import ablation_grid, ablations_dict
from segnl.studies.control import control_dict
from segnl.studies.results import HeadResult, StudyResults
from segnl.studies.verdicts import bracket, image_scope, pair_verdict, points, verdicts

BEST = (
    "Green and bold: the best of the column. For mIoU, only a head that is separable from every other one is marked; "
    "for other scores none is, because they are not tested."
)
REFERENCES = "Other intervals"
REFERENCES_NOTE = (
    "For reviewers; no verdict rests on them. Welch: t test over the runs' scores, for new seeds on these images. "
    "Bootstrap: hierarchical, over seeds and then images or groups of images, percentiles; with few seeds it is too "
    "narrow. All are 95 % intervals in points without correction for several pairs."
)
UNMARKED = ("boundary_iou", "ambiguous_acc", "matched_channels", "steps")
"""Columns without a best value."""
OF_RUN = ("miou", "boundary_iou", "pixel_acc", "ambiguous", "checkpoint")
"""Values of a run in compare.json."""
CHEAP = ("params", "gflops", "latency_ms", "peak_mib")
"""Columns in which the lowest value is the best."""


def results_dict(results: StudyResults) -> dict[str, Any]:
    """Returns the content of compare.json."""
    study = results.study
    return {
        "study": study.name,
        "split": study.cfg.split,
        "num_images": len(results.any_evaluation.sample_ids),
        "seeds": study.seeds_of(study.heads[0]) if study.looks else study.cfg.seeds,
        "looks": asdict(study.looks) if study.looks else None,
        "unplanned_looks": results.unplanned_looks,
        "steps": study.steps if len(set(study.steps.values())) > 1 else study.runs[0].recipe.train.num_steps,
        "learning_rates": asdict(study.search.chosen) if study.search and study.search.chosen else None,
        "heads": heads_dict(results.heads),
        "pairs": pairs_dict(results.pairs, results.classes, results.references, results.class_names),
        "verdicts": verdicts(results),
        "commonest_class_miou": results.any_evaluation.most_frequent_class()[1],
        "runs": {
            run.name: {key: results.evaluations[run.name].metrics.get(key) for key in OF_RUN} for run in study.runs
        },
        "ablations": ablations_dict(results.ablations),
        "fallen": dict(results.fallen),
        "with_changed_data": list(results.with_changed_data),
        "control": control_dict(results.hashes, results.refused, results.logged),
        "complete": True,
    }


def heads_dict(heads: Sequence[HeadResult]) -> dict[str, Any]:
    """Returns `heads` of compare's JSON; null for what was not measured."""
    names = [field.name for field in fields(HeadResult) if field.name not in ("name", "is_match_target")]
    return {head.name: {name: getattr(head, name) for name in names} for head in heads}


def pairs_dict(
    pairs: Sequence[Comparison],
    classes: Sequence[Mapping[str, ClassDifference]] = (),
    references: Sequence[References] = (),
    class_names: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Returns `pairs` of compare's JSON; null for what is unknown.

    classes, references: for each pair, differences by class name, and the intervals of other methods.
    """
    keys = ("difference", "low", "high", "is_about_heads")
    mappings = [
        asdict(pair) | {"separable": pair.is_separable, "verdict": pair_verdict(pair, len(pairs), class_names)}
        for pair in pairs
    ]
    for mapping, own in zip(mappings, references, strict=False):
        mapping["references"] = asdict(own)
    for mapping, of_pair in zip(mappings, classes, strict=False):
        mapping["per_class"] = {name: {key: getattr(own, key) for key in keys} for name, own in of_pair.items()}
    return mappings


def pair_with(pairs: Sequence[Comparison], head: str, control: str) -> Comparison | None:
    """Returns the comparison of a head with the control."""
    return next((pair for pair in pairs if (pair.a, pair.b) == (head, control)), None)


def table_columns(heads: Sequence[HeadResult], pairs: Sequence[Comparison]) -> dict[str, Column]:
    """Returns the columns that this study has values for, by their key in compare.json; `against` for the difference
    from the control.
    """
    against = {"against": _control_column(heads[0].name, pairs)} if len(heads) > 1 else {}
    always = ("miou_mean", "train_images_per_s")
    known = {key for key in OF_HEAD if key in always or any(getattr(head, key) is not None for head in heads)}
    if len({head.steps for head in heads}) == 1:
        known -= {"steps"}
    in_order = {"miou_mean": OF_HEAD["miou_mean"]} | against | OF_HEAD
    return {key: column for key, column in in_order.items() if key in known | {"against"}}


def _control_column(control: str, pairs: Sequence[Comparison]) -> Column:
    if any(pair.p is not None for pair in pairs):
        interval = (
            f"In brackets the 95 % interval for new seeds {image_scope(pairs[0].num_groups)}: if it contains 0, the "
            "difference may be chance. An interval marked 'images only' is for these networks on new images: there is "
            "only one seed."
        )
    else:
        interval = (
            "In brackets the 95 % interval for these same networks on new images only. It leaves out the spread over "
            "seeds, which one seed cannot show, so it says nothing about the heads."
        )
    return Column(f"vs {control}", f"This head's mIoU minus that of {control}, the control, in points. {interval}")


def table_rows(heads: Sequence[HeadResult], pairs: Sequence[Comparison]) -> dict[str, Sequence[Cell]]:
    """Returns the cells of each head; the best of a column is marked as BEST says."""
    columns = [_column(heads, pairs, key) for key in table_columns(heads, pairs)]
    return {head.name: cells for head, cells in zip(heads, zip(*columns, strict=True), strict=True)}


def _column(heads: Sequence[HeadResult], pairs: Sequence[Comparison], key: str) -> list[Cell]:
    if key == "against":
        control = heads[0].name
        return [Cell("control"), *(_difference_cell(pair_with(pairs, head.name, control)) for head in heads[1:])]
    values = [getattr(head, key) for head in heads]
    largest = max((value for value in values if value is not None), default=0)
    cells = [_cell(head, key, value, largest) for head, value in zip(heads, values, strict=True)]
    if key == "miou_mean":
        best = separable_best(heads, pairs)
        return [replace(cell, is_best=head.name == best) for head, cell in zip(heads, cells, strict=True)]
    by_text = {cell.text: value for cell, value in zip(cells, values, strict=True) if value is not None}
    if key in UNMARKED or len(by_text) < 2:  # no value is the best of equal ones
        return cells
    best = (min if key in CHEAP else max)(by_text, key=lambda text: by_text[text])
    return [replace(cell, is_best=cell.text == best) for cell in cells]


def separable_best(heads: Sequence[HeadResult], pairs: Sequence[Comparison]) -> str | None:
    """Returns the head with the highest mIoU if it is separable from every other head that has runs."""
    miou = {head.name: head.miou_mean for head in heads if head.miou_mean is not None}
    best = max(miou, key=lambda head: miou[head], default=None)
    own = [pair for pair in pairs if best in (pair.a, pair.b)]
    known = [pair for pair in own if pair.difference is not None]
    is_tested = len(own) == len(heads) - 1  # a study may compare with the control alone
    return best if known and is_tested and all(pair.is_separable for pair in known) else None


def _difference_cell(pair: Comparison | None) -> Cell:
    if pair is None or pair.difference is None:
        return Cell("–")
    images = bracket(pair.images_low, pair.images_high)
    note = bracket(pair.low, pair.high) or (f"{images} images only" if images else "")
    return Cell(points(pair.difference), note=note)


def _cell(head: HeadResult, key: str, value: float | None, largest: float) -> Cell:
    if value is None:
        return Cell("–")
    if key == "matched_channels":
        deviation = f"({100 * (head.matched_deviation or 0):+.1f} %)"
        return Cell(str(value), note="(target)" if head.is_match_target else deviation)
    if key in ("miou_mean", "boundary_iou", "ambiguous_acc"):
        has_sd = key == "miou_mean" and head.miou_sd is not None
        note = f"± {100 * (head.miou_sd or 0):.2f} over {head.runs} seeds" if has_sd else ""
        return Cell(f"{100 * value:.1f}" if key == "ambiguous_acc" else f"{100 * value:.2f}", value, note)
    if key == "steps":
        return Cell(f"{value:,}")
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
    titles = ["head", *(column.title for column in table_columns(heads, pairs).values())]
    rows = table_rows(heads, pairs)
    return [titles, *([head, *(f"{cell.text} {cell.note}".strip() for cell in cells)] for head, cells in rows.items())]


def reference_cells(results: StudyResults) -> list[list[str]]:
    """Returns each pair's interval beside those of other methods, the titles first."""
    rows = [["pair", "difference", "ours", "Welch over seeds", "p", "bootstrap"]]
    for pair, own in zip(results.pairs, results.references, strict=True):
        intervals = [
            bracket(pair.low, pair.high),
            bracket(own.welch_low, own.welch_high),
            "" if own.welch_p is None else f"{own.welch_p:.3f}",
            bracket(own.bootstrap_low, own.bootstrap_high),
        ]
        value = "–" if pair.difference is None else points(pair.difference)
        rows.append([f"{pair.a} - {pair.b}", value, *(text or "–" for text in intervals)])
    return rows


def markdown(results: StudyResults) -> str:
    """Returns verdicts, table and ablations with their explanations as Markdown."""
    first, *rest = verdicts(results)
    columns = table_columns(results.heads, results.pairs).values()
    lines = [f"**{first}**", ""]
    lines += [f"- {sentence}" for sentence in rest]
    lines += [f"- **refused:** {name} {reason}" for name, reason in results.refused.items()]
    lines += ["", *markdown_table(_cells(results.heads, results.pairs)), ""]
    lines += [f"- {column.title}: {column.meaning}" for column in columns]
    if any(own.welch_p is not None for own in results.references):
        lines += ["", f"## {REFERENCES}", "", *markdown_table(reference_cells(results)), "", REFERENCES_NOTE]
    grid = ablation_grid(results.ablations)
    if grid:
        lines += ["", f"## {grid.title}", "", *(f"- {sentence}" for sentence in grid.sentences), ""]
        lines += [*markdown_table(grid.rows), "", grid.note, ""]
        lines += [f"- {name}: {meaning}" for name, meaning in grid.meanings.items()]
    return "\n".join(lines) + "\n"


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
    names, *columns = zip(*rows, strict=True)
    width_of_names = max(map(len, names))
    pieces: list[list[Sequence[str]]] = [[[name.ljust(width_of_names) for name in names]]]
    for texts in columns:
        column = [text.rjust(max(map(len, texts))) for text in texts]
        used = sum(len(others[0]) + 2 for others in pieces[-1])
        if width is not None and len(pieces[-1]) > 1 and used + len(column[0]) > width:
            pieces.append(pieces[0][:1])
        pieces[-1].append(column)
    blocks = []
    for piece in pieces:
        titles, *lines = ["  ".join(line) for line in zip(*piece, strict=True)]
        blocks.append("\n".join([titles, "-" * len(titles), *lines]))
    return "\n\n".join(blocks)
