"""`segnl curves`: plot training curves."""

import argparse
from pathlib import Path

HELP = "plot loss, learning rate and mIoU of any runs against steps"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    command.add_argument(
        "--out", type=Path, required=True, metavar="FILE.png", help="the image file; also .svg or .pdf"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from segnl.reports.learning_curves import write_curves

    print(write_curves(args.runs, args.out))
    return 0
