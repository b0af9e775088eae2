"""`segnl inspect`: one page for any runs: image, label, every mask."""

import argparse
from pathlib import Path

HELP = "one page with images, labels and every network's masks, for any runs"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    command.add_argument(
        "--checkpoint", nargs="+", type=Path, required=True, metavar="RUN", help="folders of runs, or checkpoint files"
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="receives report.html and sheet.png")
    command.add_argument("--split", default="val", help="split of the data set (default val)")
    command.add_argument("--images", type=int, default=60, metavar="N", help="images on the page (default 60)")
    command.add_argument(
        "--sheet", type=int, default=8, metavar="N", help="images on sheet.png, one per row (default 8)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from segnl.core.limits import require_count
    from segnl.reports.inspect_runs import inspect_runs

    for option, count in (("--images", args.images), ("--sheet", args.sheet)):
        require_count(option, count, most=10_000)
    print(inspect_runs(args.checkpoint, args.out, split=args.split, num_images=args.images, sheet=args.sheet))
    return 0
