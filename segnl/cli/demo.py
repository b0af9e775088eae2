"""Make a small street data set and compare four heads on it, in a few minutes."""

import argparse
from pathlib import Path

from segnl.cli.compare import print_results

DATA = Path("data/streets_demo")
STUDY = Path("configs/compare/demo.yaml")
NUM_TRAIN, NUM_VAL, HW = 400, 40, (256, 512)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.studies.run import compare

    make_streets(DATA)
    print_results(compare(STUDY))
    print(
        f"To try next: add a seed in {STUDY} and run this again. For more steps, copy that file to another name, which "
        "makes it another study, and give it to segnl compare --config."
    )


def make_streets(root: Path) -> None:
    """Makes the demo's streets, or those of them that are missing."""
    from segnl.core.errors import DataError
    from segnl.core.log import log
    from segnl.core.progress import Progress
    from segnl.streets.files import generate, require_complete

    try:
        require_complete(root)
    except DataError:
        total = NUM_TRAIN + NUM_VAL
        log.info("%s: making %d streets of %dx%d pixels", root, total, *HW)
        with Progress("streets", total, unit="image") as progress:
            generate(root, num_train=NUM_TRAIN, num_val=NUM_VAL, hw=HW, progress=lambda done, of: progress.advance())
