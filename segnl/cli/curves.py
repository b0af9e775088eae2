"""Plot loss, learning rate and mIoU of any runs against steps."""

import argparse

from segnl.cli.arguments import path_of


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add("runs", nargs="+", type=path_of, metavar="RUN", help="folders of runs")
    add("--out", type=path_of, required=True, metavar="FILE.png", help="the image file; also .svg or .pdf")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.reports.learning_curves import write_curves

    print(write_curves(args.runs, args.out))
