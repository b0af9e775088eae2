"""`segnl check`: every fault of a data set at once, and what its classes weigh."""

import json
from pathlib import Path

from segnl.core.errors import DataError
from segnl.core.files import write_atomic
from segnl.datasets.base import SegmentationData
from segnl.datasets.check import Report, check, merged
from segnl.datasets.find import find
from segnl.engine.progress import Progress
from segnl.engine.recipe import Recipe


def report_data(recipe: Recipe, split: str | None, json_file: Path | None) -> int:
    """Prints the report, writes it as JSON when asked; returns 0, or DataError's exit code when there are faults.

    split: None is train and val, where a val that is not there is said and is no fault.
    """
    reports = {data.split: _report(data) for data in _splits(recipe, split)}
    if json_file is not None:
        each = {name: report.tree() for name, report in reports.items()}
        tree = merged([*reports.values()]).tree() | {"splits": each}
        write_atomic(json_file, json.dumps(tree, indent=1).encode())
    return DataError.exit_code if any(report.faults for report in reports.values()) else 0


def _splits(recipe: Recipe, split: str | None) -> list[SegmentationData]:
    make = find(recipe.data.name)
    found = [make(recipe.data, split or "train", allow_unmatched=True)]
    if split is None:
        try:
            found.append(make(recipe.data, "val", allow_unmatched=True))
        except DataError as err:
            print(f"note: val is not looked at: {err}")
    return found


def _report(data: SegmentationData) -> Report:
    with Progress(f"check {data.split}", len(data), unit="pair") as progress:
        report = check(data, on_pair=progress.advance)
    for fault in report.faults:
        print(f"{fault.file}: {fault.kind}: {fault.detail}")
    for note in report.notes:
        print(f"note: {note.file}: {note.detail}")
    labelled = max(1, sum(report.pixels_per_class.values()))
    for name, pixels in sorted(report.pixels_per_class.items(), key=lambda item: -item[1]):
        print(f"{name:<24} {100 * pixels / labelled:7.3f} %")
    void = "" if report.void_fraction is None else f", {100 * report.void_fraction:.2f} % of their pixels void"
    print(f"{data.split}: {report.num_pairs} pairs{void}; {len(report.faults)} faults", flush=True)
    return report
