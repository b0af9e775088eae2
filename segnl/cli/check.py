"""Find all errors of a data set in one pass, and count the pixels of each class."""

import argparse
from typing import TYPE_CHECKING

from segnl.cli.arguments import add_config, add_json
from segnl.core.errors import DataError
from segnl.core.files import ensure_writable, write_atomic
from segnl.core.log import one_line
from segnl.core.outputs import json_file

if TYPE_CHECKING:
    from segnl.data.base import SegmentationData
    from segnl.data.check import DataReport
    from segnl.runs.recipe import Recipe


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add_config(command)
    add("--split", help="check this split only (default: train and val)")
    add_json(command, "also write the report there")


def run(args: argparse.Namespace) -> int:
    """Writes the report with --json, prints it; returns 0, or DataError's exit code when there are errors."""
    from segnl.core.limits import require_workers
    from segnl.data.check import merge_reports
    from segnl.runs.recipe import load_recipe

    if args.json is not None:
        ensure_writable(args.json.parent)
    recipe = load_recipe(args.config, args.overrides)
    require_workers(recipe.data.workers)
    reports = {data.split: _report(data) for data in _splits(recipe, args.split)}
    if args.json is not None:
        by_split = {name: report.to_dict() for name, report in reports.items()}
        summary = merge_reports([*reports.values()]).to_dict() | {"splits": by_split}
        write_atomic(args.json, json_file(summary, "check"))
    for split, report in reports.items():
        _print(split, report)
    return DataError.exit_code if any(report.errors for report in reports.values()) else 0


def _splits(recipe: "Recipe", split: str | None) -> "list[SegmentationData]":
    from segnl.data.find import DATASETS

    dataset, num_bands = DATASETS.find(recipe.data.name), recipe.model.input.channels
    splits = [dataset(recipe.data, "train" if split is None else split, allow_unmatched=True, num_bands=num_bands)]
    if split is None:
        try:
            splits.append(dataset(recipe.data, "val", allow_unmatched=True, num_bands=num_bands))
            train, val = ({data.image_path(i) for i in range(len(data))} for data in splits)
            if shared := sorted(train & val):
                print(one_line(f"note: {len(shared)} images are in train and in val, such as {shared[0]}"))
        except DataError as err:
            print(one_line(f"note: val is not checked: {err}"))
    return splits


def _report(data: "SegmentationData") -> "DataReport":
    from segnl.core.progress import Progress
    from segnl.data.check import check

    with Progress(f"check {data.split}", len(data), unit="pair") as progress:
        return check(data, on_pair=progress.advance)


def _print(split: str, report: "DataReport") -> None:
    for error in report.errors:
        print(one_line(f"{error.file}: {error.kind}: {error.detail}"))
    for note in report.notes:
        print(one_line(f"note: {note.file}: {note.detail}"))
    labelled = max(1, sum(report.pixels_per_class.values()))
    for name, pixels in sorted(report.pixels_per_class.items(), key=lambda item: -item[1]):
        print(f"{name:<24} {100 * pixels / labelled:7.3f} %")
    ignored = (
        "" if report.ignored_fraction is None else f", {100 * report.ignored_fraction:.2f} % of their pixels ignored"
    )
    print(f"{split}: {report.num_pairs} pairs{ignored}; {len(report.errors)} errors")
