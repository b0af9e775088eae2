"""Make a small street data set and compare four heads on it, in a few minutes."""

import argparse

from segnl.cli.compare import print_results


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.studies.demo import DATA, STUDY, make_streets
    from segnl.studies.run import compare

    make_streets(DATA)
    print_results(compare(STUDY))
    print(
        f"To try next: add a seed in {STUDY} and run this again. For more steps, copy that file to another name, which "
        "makes it another study, and give it to segnl compare --config."
    )
