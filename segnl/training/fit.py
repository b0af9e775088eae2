"""A training in its folder: prepares or resumes the run, then lets the trainer take its steps."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from segnl.core.config import dump_yaml
from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup
from segnl.core.errors import CheckpointError, ConfigError, StoppedError
from segnl.core.files import LOCK, ensure_writable, remove_leftovers, run_lock, write_atomic
from segnl.core.limits import require_memory
from segnl.core.log import log
from segnl.data.base import SegmentationData
from segnl.data.check import class_pixels
from segnl.data.loader import BatchPlan, train_batches
from segnl.data.sample import Batch
from segnl.data.transforms import TrainTransform
from segnl.losses.base import class_weights
from segnl.runs.build import build_data, build_model, device_of, make_deterministic, padding_rgb
from segnl.runs.checkpoint import Checkpoint, broadcast_checkpoint, newest_checkpoint, set_damaged_aside
from segnl.runs.classes import class_table_to_dict
from segnl.runs.recipe import Recipe, differing_keys
from segnl.training.hooks import Hook
from segnl.training.loggers.jsonl import JSONLLogger
from segnl.training.loggers.tensorboard import TensorBoardLogger, ensure_installed
from segnl.training.loggers.terminal import TerminalLogger
from segnl.training.saver import CheckpointSaver
from segnl.training.trainer import Trainer
from segnl.training.validator import Validator


def fit(
    recipe: Recipe,
    run: Path,
    *,
    fresh: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
    hooks: Sequence[Hook] = (),
) -> None:
    """Trains `recipe` in the folder `run`, from its newest undamaged checkpoint if it has one.

    fresh: moves an old run aside first. group: only rank 0 touches the folder. hooks: called after those that log,
    save and validate.

    Raises StoppedError when a signal ended it after a checkpoint; ConfigError when the folder is in use, or holds
    another recipe, naming the keys that differ.
    """
    _check_batch_size(recipe, group)
    group.run_on_rank0(lambda: _check_output(run, tensorboard=recipe.train.tensorboard))
    train_data, val_data = group.run_on_all(lambda: (build_data(recipe, "train"), _validation_data(recipe)))
    with ExitStack() as stack:
        checkpoint = broadcast_checkpoint(group, lambda: _open_run(recipe, run, train_data, stack, fresh=fresh))
        trainer = _build_trainer(recipe, train_data, checkpoint, group)
        group.run_on_rank0(lambda: write_atomic(run / "recipe.yaml", dump_yaml(recipe.to_dict()).encode()))
        first_step, saver = trainer.step_number, CheckpointSaver(run, train_data.table)
        validators = [] if val_data is None else [Validator(run, val_data, saver, trainer)]
        if first_step >= recipe.train.max_steps and not any(validator.is_one_missing for validator in validators):
            if group.is_rank0:
                log.info("%s: already trained, %d of %d steps", run, first_step, recipe.train.max_steps)
            return
        loggers: list[Hook] = []
        group.run_on_rank0(lambda: loggers.extend(_loggers(run, first_step, tensorboard=recipe.train.tensorboard)))
        batches = stack.enter_context(closing(_batches(recipe, train_data, first_step, group)))
        result = trainer.fit(batches, [*loggers, saver, *validators, *hooks])
    if result.stopped_by is not None:
        raise StoppedError(f"{run}: stopped after step {result.steps}", 128 + result.stopped_by)


def _check_batch_size(recipe: Recipe, group: ProcessGroup) -> None:
    train = recipe.train
    micro_batches = group.world_size * train.accumulate
    if train.batch_size % micro_batches:
        shares = f"{group.world_size} ranks"
        if micro_batches > group.world_size:
            shares += f" in {train.accumulate} micro-batches each"
        err = ConfigError(
            f"train.batch_size: {train.batch_size} images a step cannot be shared equally by {shares}; change one"
        )
        err.is_relayed = not group.is_rank0  # every rank finds it by itself
        raise err
    rows, columns = recipe.data.crop_hw
    images = train.batch_size // group.world_size
    uint8_bytes, float_bytes = 4 * images, 12 * images // train.accumulate
    require_memory("train.batch_size crops of data.crop_hw", (uint8_bytes + float_bytes) * rows * columns)


def _check_output(run: Path, *, tensorboard: bool) -> None:
    ensure_writable(run)
    if tensorboard:
        ensure_installed()


def _validation_data(recipe: Recipe) -> SegmentationData | None:
    return build_data(recipe, "val") if recipe.train.eval_every is not None else None


def _open_run(recipe: Recipe, run: Path, data: SegmentationData, stack: ExitStack, *, fresh: bool) -> Checkpoint | None:
    """Locks the run's folder until `stack` is closed; returns the checkpoint to resume from."""
    if fresh:
        _move_aside(run)
    stack.enter_context(run_lock(run))
    remove_leftovers(run)
    checkpoint = newest_checkpoint(run)
    if checkpoint is not None:
        _check_same_training(recipe, data, checkpoint)
        set_damaged_aside(run, checkpoint)
    return checkpoint


def _move_aside(run: Path) -> None:
    with run_lock(run):
        if all(path.name == LOCK for path in run.iterdir()):
            return  # there is no old run
        number = next(n for n in range(1, 10_000) if not run.with_name(f"{run.name}.old{n}").exists())
        run.rename(run.with_name(f"{run.name}.old{number}"))
    run.mkdir()


def _check_same_training(recipe: Recipe, data: SegmentationData, checkpoint: Checkpoint) -> None:
    differing = differing_keys(recipe.to_dict(), checkpoint.recipe)
    if differing:
        raise ConfigError(
            f"{checkpoint.path.parent}: was begun with another recipe, which differs in {', '.join(differing)}; "
            "give another --run name, or --fresh to move the old run aside"
        )
    saved, current = checkpoint.classes, class_table_to_dict(data.table)
    if any(saved[key] != current[key] for key in ("names", "file_ids")):
        raise CheckpointError(
            f"{checkpoint.path}: was trained on other classes ({', '.join(saved['names'][:3])} ...) than those of "
            f"{recipe.data.root}; give its own data.root, or --fresh"
        )


def _build_trainer(
    recipe: Recipe, data: SegmentationData, checkpoint: Checkpoint | None, group: ProcessGroup
) -> Trainer:
    if recipe.train.deterministic:
        make_deterministic()
    is_new = checkpoint is None and group.is_rank0  # the other ranks get their weights from rank 0
    model = group.run_on_all(lambda: build_model(recipe, data.table.num_classes, is_new=is_new))
    balance = recipe.loss.class_weight
    class_weight = group.run_on_rank0(lambda: None if balance is None else class_weights(balance, class_pixels(data)))
    trainer = Trainer(recipe, model, device_of(), class_weight=class_weight, group=group)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    return trainer


def _loggers(run: Path, first_step: int, *, tensorboard: bool) -> list[Hook]:
    loggers: list[Hook] = [JSONLLogger(run / "log.jsonl", first_step=first_step)]
    if tensorboard:
        loggers.append(TensorBoardLogger(run, first_step=first_step))
    return [*loggers, TerminalLogger(run)]


def _batches(
    recipe: Recipe, data: SegmentationData, first_step: int, group: ProcessGroup
) -> Generator[Batch, None, None]:
    transform = TrainTransform(recipe.data, padding_rgb(recipe.model.input), recipe.train.seed)
    return train_batches(
        data,
        transform,
        BatchPlan(
            recipe.train.seed,
            recipe.train.batch_size,
            first_step,
            recipe.train.max_steps,
            rank=group.rank,
            world=group.world_size,
        ),
        workers=recipe.data.workers,
        timeout_s=recipe.data.worker_timeout_s,
    )
