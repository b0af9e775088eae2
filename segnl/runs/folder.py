"""Folders of runs: their names, and opening one to start or resume a training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segnl.core.config import dump_yaml
from segnl.core.errors import CheckpointError, ConfigError
from segnl.core.files import LOCK, inside, remove_leftovers, run_lock, write_atomic
from segnl.labels.table import ClassTable
from segnl.runs.checkpoint import Checkpoint, class_table_to_dict, newest_checkpoint, quarantine_damaged
from segnl.runs.recipe import Recipe, differing_keys

RUNS = Path("checkpoints")


def run_folder(recipe: Recipe, config: Path, name: str | None) -> Path:
    """Returns checkpoints/NAME, where NAME is DATASET-CONFIG-sSEED by default.

    Raises ConfigError for a name that leads out of checkpoints/.
    """
    RUNS.mkdir(exist_ok=True)
    return inside(RUNS, name if name is not None else f"{recipe.data.title}-{config.stem}-s{recipe.train.seed}")


@contextmanager
def lock_run_folder(run: Path, recipe: Recipe, class_table: ClassTable, *, fresh: bool) -> Iterator[Checkpoint | None]:
    """Locks a run's folder, writes its recipe.yaml and yields its newest undamaged checkpoint; None for a new run.

    fresh: moves an old run aside first.

    Raises ConfigError when the folder is in use or holds another recipe, naming the keys that differ; CheckpointError
    when it was trained on other classes, or all its checkpoints are damaged.
    """
    if fresh:
        _move_aside(run)
    with run_lock(run):
        remove_leftovers(run)
        checkpoint = newest_checkpoint(run)
        if checkpoint is not None:
            _check_same_training(recipe, class_table, checkpoint)
            quarantine_damaged(run, checkpoint)
        write_atomic(run / "recipe.yaml", dump_yaml(recipe.to_dict()).encode())
        yield checkpoint


def _move_aside(run: Path) -> None:
    with run_lock(run):
        if all(path.name == LOCK for path in run.iterdir()):
            return  # there is no old run
        number = next(n for n in range(1, 10_000) if not run.with_name(f"{run.name}.old{n}").exists())
        run.rename(run.with_name(f"{run.name}.old{number}"))
    run.mkdir()


def _check_same_training(recipe: Recipe, class_table: ClassTable, checkpoint: Checkpoint) -> None:
    differing = differing_keys(recipe.to_dict(), checkpoint.recipe)
    if differing:
        raise ConfigError(
            f"{checkpoint.path.parent}: was begun with another recipe, which differs in {', '.join(differing)}; "
            "give another --run name, or --fresh to move the old run aside"
        )
    saved, current = checkpoint.classes, class_table_to_dict(class_table)
    if any(saved[key] != current[key] for key in ("names", "file_ids")):
        raise CheckpointError(
            f"{checkpoint.path}: was trained on other classes ({', '.join(saved['names'][:3])} ...) than those of "
            f"{recipe.data.root}; give its own data.root, or --fresh"
        )
