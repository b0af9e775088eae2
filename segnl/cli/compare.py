"""`segnl compare`: train and compare the heads of a study."""

import argparse
from pathlib import Path

HELP = "train and compare every head of a study; its table and its page"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    command.add_argument("--config", type=Path, required=True, metavar="FILE", help="a study (docs/compare.md)")
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at once, a GPU each (default 1)")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from segnl.core.limits import require_jobs
    from segnl.studies.run import compare

    require_jobs(args.jobs)
    compare(args.config, args.json, num_jobs=args.jobs)
    return 0
