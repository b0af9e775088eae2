"""`segnl demo`: the demo."""

import argparse

from segnl.cli.compare import print_results

HELP = "make a small street data set and compare four heads on it, in a few minutes"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds no argument: the command takes none."""


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from segnl.studies.demo import STUDY, demo

    results = demo()
    print_results(results)
    print(
        f"Look at {results.study.folder / 'report.html'}. To try next: add a seed in {STUDY} and run this again. For "
        "more steps, copy that file to another name, which makes it another study, and give it to segnl compare "
        "--config."
    )
    return 0
