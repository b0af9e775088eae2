"""Show what five heads can see, in a few minutes."""

import argparse
from pathlib import Path

from segnl.cli.probe import print_probe

OUT = Path("out/demo")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.studies.probe import ProbeRequest, probe

    print_probe(probe(ProbeRequest(OUT)), OUT)
