"""One page with images, labels and every network's masks, for any runs."""

import argparse
from pathlib import Path

from segnl.cli.arguments import add_trust_modules


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add("--checkpoint", nargs="+", type=Path, required=True, metavar="RUN", help="folders of runs, or checkpoint files")
    add("--out", type=Path, required=True, metavar="DIR", help="receives report.html and sheet.png")
    add_trust_modules(command)
    add("--split", default="val", help="split of the data set (default val)")
    add("--images", type=int, default=60, metavar="N", help="images on the page (default 60)")
    add("--sheet", type=int, default=8, metavar="N", help="images on sheet.png, one per row (default 8)")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.core.limits import require_count
    from segnl.reports.inspect_runs import inspect_runs

    for option, count in (("--images", args.images), ("--sheet", args.sheet)):
        require_count(option, count, most=10_000)
    print(
        inspect_runs(
            args.checkpoint,
            args.out,
            split=args.split,
            num_images=args.images,
            sheet=args.sheet,
            trust_modules=args.trust_modules,
        )
    )
