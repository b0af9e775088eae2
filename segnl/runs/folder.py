"""Folders of runs: their names, and opening one to start or resume a training."""

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

from segnl.core.config import JSONDict, dump_yaml, read_file
from segnl.core.errors import CheckpointError, ConfigError
from segnl.core.files import LOCK, ensure_writable, inside, read_bytes, remove_leftovers, run_lock, write_atomic
from segnl.core.run_log import read_log
from segnl.labels.table import ClassTable
from segnl.runs.checkpoint import Checkpoint, class_table_to_dict, newest_checkpoint, quarantine_damaged
from segnl.runs.extension import ALLOWED_KEYS, check_extension, extended_recipe, is_finished
from segnl.runs.recipe import Recipe, ScheduleAfter, differing_keys

RUNS = Path("checkpoints")


def features_folder(run: Path) -> Path:
    """Returns the folder of a frozen backbone's maps, which the runs in one folder, such as a study's, share."""
    return run.parent / "features"


def run_folder(recipe: Recipe, config: Path, name: str | None) -> Path:
    """Returns checkpoints/NAME, where NAME is DATASET-CONFIG-sSEED by default.

    Raises ConfigError for a name that leads out of checkpoints/, or into the folder of another run.
    """
    RUNS.mkdir(exist_ok=True)
    run = inside(RUNS, name if name is not None else f"{recipe.data.title}-{config.stem}-s{recipe.train.seed}")
    for outer in run.parents:
        if RUNS in outer.parents and (outer / "recipe.yaml").exists():
            raise ConfigError(f"--run {name}: lies in the folder of the run {outer}; give another name")
    if (run / "study.json").exists():
        raise ConfigError(f"{run}: is the folder of a study; give another --run name")
    return run


@contextmanager
def lock_run_folder(
    run: Path, recipe: Recipe, class_table: ClassTable, *, fresh: bool, extend: ScheduleAfter | None = None
) -> Iterator[tuple[Recipe, Checkpoint | None]]:
    """Locks a run's folder, writes its recipe.yaml, and yields that recipe and the run's newest undamaged checkpoint.

    A missing folder is created. The recipe is the given one with the run's extensions. The checkpoint of a new run is
    None. The recipe.yaml of a finished run is not written again; that of an extended one stays as recipe-STEP.yaml.
    fresh: moves an old run aside first. extend: lets a finished run go on to the recipe's train.max_steps.

    Raises ConfigError when the folder is in use or holds another recipe, naming the keys that differ, and when the run
    cannot be extended; CheckpointError when it was trained on other classes, or all its checkpoints are damaged.
    """
    if fresh and extend is not None:
        raise ConfigError("--fresh, --extend: one starts over and the other continues; give one of them")
    ensure_writable(run)
    if fresh:
        _move_aside(run)
    with run_lock(run):
        remove_leftovers(run)
        checkpoint = newest_checkpoint(run)
        if checkpoint is not None and not _is_of_training(checkpoint):
            raise CheckpointError(
                f"{checkpoint.path}: holds weights alone, so no training can continue from it; move it aside, or start "
                "from it with init"
            )
        recipe = extended_recipe(recipe, checkpoint, extend)
        if extend is not None:
            check_extension(run, recipe, checkpoint, extend)
        if checkpoint is None:
            _require_own(run)
            recipes = {"recipe.yaml": recipe.to_dict()}
        else:
            recipes = _continued(run, recipe, class_table, checkpoint, is_extension=extend is not None)
        for name, mapping in recipes.items():
            write_atomic(run / name, dump_yaml(mapping).encode())
        yield recipe, checkpoint


def _continued(
    run: Path, recipe: Recipe, class_table: ClassTable, checkpoint: Checkpoint, *, is_extension: bool
) -> dict[str, JSONDict]:
    """Checks that a recipe may continue a run, and puts damaged checkpoints aside.

    Returns the recipes to write, by file name.
    """
    is_extended_now = recipe.train.num_steps != checkpoint.recipe["train"]["max_steps"]
    is_done = not is_extended_now and is_finished(run, checkpoint)
    differing = differing_keys(recipe.to_dict(), checkpoint.recipe, with_eval=True)
    of_eval = {key for key in differing if key.startswith("eval.")}
    allowed = of_eval | (ALLOWED_KEYS if is_extension else frozenset())
    _check_same_training(recipe, class_table, checkpoint, [key for key in differing if key not in allowed])
    quarantine_damaged(run, checkpoint)
    if not is_done:
        _check_same_validations(run, recipe, checkpoint, of_eval - {"eval.batch_size", "eval.metrics"})
    file, before_extension = run / "recipe.yaml", run / f"recipe-{checkpoint.step}.yaml"
    if is_done and before_extension.exists():  # an extension ended before its first checkpoint
        before_extension.replace(file)
    recipes = {before_extension.name: checkpoint.recipe} if is_extended_now else {}
    return recipes if is_done and file.exists() else recipes | {file.name: recipe.to_dict()}


def _require_own(run: Path) -> None:
    """Raises ConfigError for a recipe or a log that no training wrote, in a folder without checkpoints."""
    file, log = run / "recipe.yaml", run / "log.jsonl"
    if file.exists() and dump_yaml(read_file(file)).encode() != read_bytes(file):
        raise ConfigError(
            f"{file}: exists and was not written by segnl train; move it aside, or give another --run name"
        )
    if log.exists() and not file.exists():
        raise ConfigError(f"{log}: exists, but no recipe.yaml beside it; move it aside, or give another --run name")


def _is_of_training(checkpoint: Checkpoint) -> bool:
    has_steps = checkpoint.recipe["train"].get("max_steps") is not None
    return has_steps and not {"exported", "imported"} & checkpoint.origin.keys()


def _move_aside(run: Path) -> None:
    with run_lock(run):
        if all(path.name == LOCK for path in run.iterdir()):
            return  # there is no old run
        number = next(n for n in range(1, 10_000) if not run.with_name(f"{run.name}.old{n}").exists())
        run.rename(run.with_name(f"{run.name}.old{number}"))
    run.mkdir()


def _check_same_training(
    recipe: Recipe, class_table: ClassTable, checkpoint: Checkpoint, differing: Sequence[str]
) -> None:
    if differing:
        num_steps, hint = checkpoint.recipe["train"]["max_steps"], ""
        if differing == ["train.max_steps"]:
            hint = f"if images were added or removed, give --set train.epochs=null train.max_steps={num_steps}, "
            if recipe.train.num_steps > num_steps:
                hint = f"add --extend continued to train a finished run for more steps, {hint}"
        raise ConfigError(
            f"{checkpoint.path.parent}: was begun with another recipe, which differs in {', '.join(differing)}; "
            f"{hint}give another --run name, or --fresh to move the old run aside"
        )
    saved, current = checkpoint.classes, class_table_to_dict(class_table)
    if any(saved[key] != current[key] for key in ("names", "file_ids")):
        raise CheckpointError(
            f"{checkpoint.path}: was trained on other classes ({', '.join(saved['names'][:3])} ...) than those of "
            f"{recipe.data.root}; give its own data.root, or --fresh"
        )


def _check_same_validations(run: Path, recipe: Recipe, checkpoint: Checkpoint, differing: Set[str]) -> None:
    """Refuses other settings of `eval` after a validation: the best would be chosen among unlike scores."""
    if recipe.train.eval_every is None:
        return
    validated = any(
        line.get("event") == "eval" and line.get("step", 0) <= checkpoint.step for line in read_log(run / "log.jsonl")
    )
    if validated and differing:
        raise ConfigError(
            f"{run}: {', '.join(sorted(differing))}: its validations so far had another value, and the best of both "
            "would mean nothing; leave it until the training has ended (segnl eval takes any), or set "
            "train.eval_every=null"
        )
