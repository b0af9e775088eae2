"""A study's results: one line a head, as JSON, as Markdown and for the terminal; no verdict that is not backed."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segnl.inspection.columns import AMBIGUOUS, COSTS, MIOU
from segnl.inspection.page import Cell, Column, Row

ONE_SEED = "One seed: this says something about these networks, nothing about the heads."
NOT_TESTED = "no interval is computed yet, so this is no verdict"

COLUMNS = {"miou": MIOU, "ambiguous": AMBIGUOUS, **COSTS}


@dataclass(frozen=True)
class HeadResult:
    """What a study found of one head. miou, ambiguous: one value for each run that counts; fractions."""

    name: str
    miou: tuple[float, ...]
    ambiguous: tuple[float, ...]
    params: int
    gflops: float
    images_per_s: float | None

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


def heads_tree(results: Sequence[HeadResult]) -> dict[str, Any]:
    """`heads` of compare's JSON; null for what was not measured."""
    return {
        each.name: {
            "miou_mean": _plain(each.miou_mean),
            "miou_sd": each.miou_sd,
            "runs": len(each.miou),
            "params": each.params,
            "gflops": each.gflops,
            "train_images_per_s": each.images_per_s,
            "latency_ms": None,
            "peak_mib": None,
            "ambiguous_acc": each.ambiguous_mean,
        }
        for each in results
    }


def pairs_tree(results: Sequence[HeadResult]) -> list[dict[str, Any]]:
    """`pairs` of compare's JSON: every later head against every earlier one. No interval, no test, no verdict yet."""
    pairs = []
    for i, b in enumerate(results):
        for a in results[i + 1 :]:
            difference = a.miou_mean - b.miou_mean
            verdict = pair_verdict(a, b)
            pairs.append(
                {
                    "a": a.name,
                    "b": b.name,
                    "difference": _plain(difference),
                    "low": None,
                    "high": None,
                    "p_holm": None,
                    "verdict": verdict,
                }
            )
    return pairs


def pair_verdict(a: HeadResult, b: HeadResult) -> str:
    """Such as `rcca - aspp: +0.31 points, one seed: ...`; differences are in points of mIoU."""
    seeds = min(len(a.miou), len(b.miou))
    said = f"{a.name} - {b.name}: {100 * (a.miou_mean - b.miou_mean):+.2f} points"
    if seeds == 0:
        return f"{a.name} - {b.name}: not comparable"
    if seeds == 1:
        return f"{said}, one seed: says something about these networks, nothing about the heads"
    return f"{said}, {seeds} seeds: {NOT_TESTED}"


def verdicts(results: Sequence[HeadResult]) -> list[str]:
    """What may be said, the first sentence first; control: the first head."""
    known = [each for each in results if each.miou]
    if not known:
        return ["No run of this study counts; the reasons stand below."]
    seeds = min(len(each.miou) for each in known)
    best = max(known, key=lambda each: each.miou_mean)
    control = known[0]
    others = [each for each in known if each is not best]
    lead = ONE_SEED if seeds == 1 else f"{seeds} seeds a head: means and spreads; {NOT_TESTED}."
    if not others:
        return [lead]
    ranked = f"{best.name} has the highest mIoU here, {100 * best.miou_mean:.1f} %"
    if best is control:
        second = max(others, key=lambda each: each.miou_mean)
        ranked += f", {100 * (best.miou_mean - second.miou_mean):.1f} points above {second.name}; it is the control."
    else:
        ranked += f", {100 * (best.miou_mean - control.miou_mean):.1f} points above the control, {control.name}."
    if seeds == 1:
        ranked += " Published reruns of one recipe differ by 1 to 2 points: another seed may turn the order round."
    return [lead, ranked]


def table_columns(results: Sequence[HeadResult]) -> list[Column]:
    """Those that this study has values for."""
    return [COLUMNS[key] for key in _keys(results)]


def _keys(results: Sequence[HeadResult]) -> list[str]:
    return [key for key in COLUMNS if key != "ambiguous" or any(each.ambiguous for each in results)]


def table_rows(results: Sequence[HeadResult]) -> list[Row]:
    """The table's cells, one row a head, in the study's order; the best value of each column is marked."""
    keys = _keys(results)
    values = {key: [_value(each, key) for each in results] for key in keys}
    rows = []
    for i, each in enumerate(results):
        rows.append(Row(each.name, [_cell(each, key, values[key], values[key][i]) for key in keys]))
    return rows


def _value(result: HeadResult, key: str) -> float | None:
    return {
        "miou": result.miou_mean if result.miou else None,
        "ambiguous": result.ambiguous_mean,
        "params": float(result.params),
        "gflops": result.gflops,
        "speed": result.images_per_s,
    }[key]


def _cell(result: HeadResult, key: str, column: Sequence[float | None], value: float | None) -> Cell:
    if value is None:
        return Cell("–")
    known = [other for other in column if other is not None]
    best = min(known) if key in ("params", "gflops") else max(known)
    is_best = value == best and len(set(known)) > 1
    if key == "miou":
        note = f"± {100 * result.miou_sd:.2f} over {len(result.miou)} seeds" if result.miou_sd is not None else ""
        return Cell(f"{100 * value:.2f}", value, note, is_best)
    if key == "ambiguous":
        return Cell(f"{100 * value:.1f}", value, "", is_best)
    text = {"params": f"{value / 1e6:.2f} M", "gflops": f"{value:.2f}", "speed": f"{value:.1f}"}[key]
    return Cell(text, value / max(known) if max(known) else None, "", is_best)


def markdown(results: Sequence[HeadResult]) -> str:
    """A Markdown table with a line of verdict below."""
    columns, rows = table_columns(results), table_rows(results)
    lines = [
        "| head | " + " | ".join(column.title for column in columns) + " |",
        "|---|" + "---:|" * len(columns),
        *("| " + " | ".join([row.name, *(_joined(cell) for cell in row.cells)]) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n\n" + "\n".join(verdicts(results)) + "\n"


def terminal(results: Sequence[HeadResult]) -> str:
    """The same in aligned columns."""
    columns, rows = table_columns(results), table_rows(results)
    grid = [["head", *(column.title for column in columns)]]
    grid += [[row.name, *(_joined(cell) for cell in row.cells)] for row in rows]
    widths = [max(len(line[i]) for line in grid) for i in range(len(grid[0]))]
    lines = []
    for name, *values in grid:
        texts = [text.rjust(width) for text, width in zip(values, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *texts]))
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def _joined(cell: Cell) -> str:
    return f"{cell.text} {cell.note}".strip()


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
