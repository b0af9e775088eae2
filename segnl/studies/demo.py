"""`segnl demo`: streets, then the heads trained on them and compared, from nothing, in a few minutes on two cores."""

from pathlib import Path

from segnl.core.errors import DataError
from segnl.core.progress import Progress
from segnl.streets.files import generate, require_complete
from segnl.studies.run import compare

DATA = Path("data/streets_demo")
STUDY = Path("configs/compare/demo.yaml")
NUM_TRAIN, NUM_VAL, HW = 400, 40, (256, 512)


def demo() -> None:
    """Makes the data set, runs the study, and says what to do next; raises StoppedError after a signal."""
    make_streets(DATA)
    compare(STUDY)
    page = Path("checkpoints") / STUDY.stem / "report.html"
    print(
        f"Look at {page}. To try next: add a seed in {STUDY} and run this again; for more steps copy that file to "
        "another name, which makes it another study, and give it to segnl compare --config."
    )


def make_streets(root: Path) -> None:
    """The demo's streets, unless they are there; a broken-off making goes on."""
    try:
        require_complete(root)
    except DataError:
        total = NUM_TRAIN + NUM_VAL
        print(f"{root}: making {total} streets of {HW[0]}x{HW[1]} pixels", flush=True)
        with Progress("streets", total, unit="image") as progress:
            generate(root, num_train=NUM_TRAIN, num_val=NUM_VAL, hw=HW, progress=lambda done, of: progress.advance())
