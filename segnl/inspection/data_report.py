"""`segnl check`: every fault of a data set at once, and what its classes weigh."""

import json
from pathlib import Path

from segnl.core.errors import DataError
from segnl.core.files import write_atomic
from segnl.datasets.check import check
from segnl.datasets.find import find
from segnl.engine.progress import Progress
from segnl.engine.recipe import Recipe


def report_data(recipe: Recipe, split: str, json_file: Path | None) -> int:
    """Prints the report, writes it as JSON when asked; returns 0, or DataError's exit code when there are faults."""
    data = find(recipe.data.name)(recipe.data, split, allow_unmatched=True)
    with Progress(f"check {split}", len(data), unit="pair") as progress:
        report = check(data, on_pair=progress.advance)
    for fault in report.faults:
        print(f"{fault.file}: {fault.kind}: {fault.detail}")
    for note in report.notes:
        print(f"note: {note.file}: {note.detail}")
    labelled = max(1, sum(report.pixels_per_class.values()))
    for name, pixels in sorted(report.pixels_per_class.items(), key=lambda item: -item[1]):
        print(f"{name:<24} {100 * pixels / labelled:7.3f} %")
    void = "" if report.void_fraction is None else f", {100 * report.void_fraction:.2f} % of their pixels void"
    print(f"{report.num_pairs} pairs{void}; {len(report.faults)} faults")
    if json_file is not None:
        write_atomic(json_file, json.dumps(report.tree(), indent=1).encode())
    return DataError.exit_code if report.faults else 0
