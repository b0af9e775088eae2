"""Where runs lie and what they are called."""

from pathlib import Path

from segnl.core.files import inside
from segnl.runs.recipe import Recipe

RUNS = Path("checkpoints")


def run_folder(recipe: Recipe, config: Path, name: str | None) -> Path:
    """checkpoints/NAME; NAME is DATASET-CONFIG-sSEED unless given. A name that leads out of checkpoints/ is refused."""
    RUNS.mkdir(exist_ok=True)
    return inside(RUNS, name if name is not None else f"{recipe.data.title}-{config.stem}-s{recipe.train.seed}")
