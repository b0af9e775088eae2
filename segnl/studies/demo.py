"""The demo: makes a small street data set and compares four heads on it, in a few minutes on two cores."""

from pathlib import Path

from segnl.core.errors import DataError
from segnl.core.log import log
from segnl.core.progress import Progress
from segnl.streets.files import generate, require_complete

DATA = Path("data/streets_demo")
STUDY = Path("configs/compare/demo.yaml")
NUM_TRAIN, NUM_VAL, HW = 400, 40, (256, 512)


def make_streets(root: Path) -> None:
    """Makes the demo's streets, or those of them that are missing."""
    try:
        require_complete(root)
    except DataError:
        total = NUM_TRAIN + NUM_VAL
        log.info("%s: making %d streets of %dx%d pixels", root, total, *HW)
        with Progress("streets", total, unit="image") as progress:
            generate(root, num_train=NUM_TRAIN, num_val=NUM_VAL, hw=HW, progress=lambda done, of: progress.advance())
