"""`segnl curves`: plot training curves."""

import argparse
from pathlib import Path

HELP = "loss, learning rate and mIoU of any runs against steps, as one picture"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="runs' folders")
    command.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="the picture; also .svg or .pdf")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from segnl.reports.curves import curves

    print(curves(args.runs, args.out))
    return 0
