"""`segnl demo`: the demo."""

import argparse

HELP = "make a small street data set, compare four heads on it, in some minutes"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds no argument: the command takes none."""


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from segnl.studies.demo import demo

    demo()
    return 0
