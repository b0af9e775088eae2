"""Train and compare every head of a study; writes a table and a page."""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from segnl.cli.arguments import add_json

if TYPE_CHECKING:
    from segnl.studies.results import StudyResults


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add("--config", type=Path, required=True, metavar="FILE", help="a study (docs/compare.md)")
    add("--jobs", type=int, default=1, metavar="N", help="training runs at a time, on one GPU each (default 1)")
    add_json(command)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.core.limits import require_jobs
    from segnl.studies.run import compare

    require_jobs(args.jobs)
    print_results(compare(args.config, args.json, num_jobs=args.jobs))


def print_results(results: "StudyResults") -> None:
    """Prints verdicts and table, and the names of the written files."""
    from segnl.studies.table import terminal_text

    folder = results.study.folder
    files = ", ".join(str(folder / name) for name in ("table.md", "table.csv", "compare.json"))
    print(terminal_text(results, width=shutil.get_terminal_size((200, 40)).columns))
    print(f"table and numbers: {files}")
    print(f"page: {folder / 'report.html'} (opens in any browser, from disk)")
