"""`segnl inspect`: one page for any runs: image, label, every mask."""

import argparse
from pathlib import Path

HELP = "one page of image, truth and every network's mask, for any runs"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    command.add_argument(
        "--checkpoint", nargs="+", type=Path, required=True, metavar="RUN", help="runs' folders or checkpoint files"
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="receives report.html and sheet.png")
    command.add_argument("--split", default="val", help="which part of the data set (default val)")
    command.add_argument("--images", type=int, default=60, metavar="N", help="how many the page shows (default 60)")
    command.add_argument(
        "--sheet", type=int, default=8, metavar="N", help="rows of sheet.png, an image each (default 8)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from segnl.reports.inspect_runs import inspect_runs

    inspect_runs(args.checkpoint, args.out, split=args.split, num_images=args.images, sheet=args.sheet)
    return 0
