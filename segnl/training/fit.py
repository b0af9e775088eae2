"""A training run in its folder: prepares or resumes the run, then lets the trainer take its steps."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from segnl.core.config import JSONDict
from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup
from segnl.core.errors import ConfigError, DataError, StoppedError
from segnl.core.files import ensure_writable
from segnl.core.limits import require_memory, require_workers
from segnl.core.log import log
from segnl.data.base import SegmentationData
from segnl.data.cache import cache_samples
from segnl.data.digest import data_record, has_changed
from segnl.data.label_counts import class_pixels, require_labelled
from segnl.data.loader import BatchPlan, train_batches
from segnl.data.sample import Batch
from segnl.data.transforms import TrainTransform
from segnl.runs.build import build_data, build_model, device_of, make_deterministic
from segnl.runs.checkpoint import Checkpoint, broadcast_checkpoint
from segnl.runs.folder import features_folder, lock_run_folder
from segnl.runs.recipe import Recipe, ScheduleAfter
from segnl.training.features import FeatureFile
from segnl.training.hooks import Hook
from segnl.training.jsonl_log import JSONLLogger
from segnl.training.loggers.find import build_loggers
from segnl.training.saver import CheckpointSaver
from segnl.training.terminal import TerminalLogger
from segnl.training.trainer import Trainer
from segnl.training.validator import Validator


def fit(
    recipe: Recipe,
    run: Path,
    *,
    fresh: bool = False,
    extend: ScheduleAfter | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    hooks: Sequence[Hook] = (),
) -> None:
    """Trains `recipe` in the folder `run`, from its newest undamaged checkpoint if it has one.

    fresh: moves an old run aside first. extend: lets a finished run go on to the recipe's train.max_steps, with its
    schedule continued or restarted. group: only rank 0 touches the folder. hooks: called after those that log, save and
    validate.

    Raises StoppedError when a signal ended it after a checkpoint, and what `lock_run_folder` raises.
    """
    _check_batch_size(recipe, group)
    recipe_loggers = list[Hook]()  # the other ranks have none
    record: JSONDict = {}
    with ExitStack() as stack:
        with group.shared_errors():
            require_workers(recipe.data.workers)
            if group.is_rank0:
                ensure_writable(run)
                recipe_loggers = build_loggers(recipe.train.loggers, run)
            data = build_data(recipe, "train")
            timed_recipe = recipe.with_steps(len(data))
            val_data = _validation_data(timed_recipe)
            final_recipe, checkpoint = timed_recipe, None
            if group.is_rank0:
                locked = lock_run_folder(run, timed_recipe, data.table, fresh=fresh, extend=extend)
                final_recipe, checkpoint = stack.enter_context(locked)
                record = data_record(data)
                if checkpoint is None:
                    require_labelled(data)
                else:
                    is_done = checkpoint.step >= final_recipe.train.num_steps
                    _warn_of_changes(run, checkpoint.origin.get("data", {}), record, is_done=is_done)
        final_recipe = group.run_on_rank0(lambda: final_recipe)  # a broadcast
        checkpoint = broadcast_checkpoint(checkpoint, group)
        trainer = build_trainer(final_recipe, data, checkpoint, group, run)
        saver = CheckpointSaver(data.table, record)
        validator = None if val_data is None else Validator(val_data, saver, trainer)
        if _is_finished(trainer, validator):
            if group.is_rank0:
                early = ", ended by train.patience" if validator is not None and validator.is_out_of_patience else ""
                steps, num_steps = trainer.step_number, final_recipe.train.num_steps
                log.info("%s: already trained, %d of %d steps%s", run, steps, num_steps, early)
            return
        with group.shared_errors():
            cache_samples([data] if val_data is None else [data, val_data], is_shown=group.is_rank0)
        all_loggers = [TerminalLogger(), *recipe_loggers, JSONLLogger()] if group.is_rank0 else []
        validators = [] if validator is None else [validator]
        batches = stack.enter_context(closing(_batches(trainer, data)))
        result = trainer.fit(batches, [*all_loggers, saver, *validators, *hooks])
    if result.stopped_by is not None:
        raise StoppedError(f"{run}: stopped after step {result.steps}", 128 + result.stopped_by)


def _is_finished(trainer: Trainer, validator: Validator | None) -> bool:
    """Returns whether earlier starts took all steps, with their validations, or ran out of patience."""
    if validator is not None and validator.is_out_of_patience:
        return True
    is_validation_missing = validator is not None and validator.is_validation_missing
    return trainer.step_number >= trainer.recipe.train.num_steps and not is_validation_missing


def _batches(trainer: Trainer, data: SegmentationData) -> Generator[Batch, None, None]:
    """Returns this process's batches, from the trainer's step to the last."""
    recipe, group, train = trainer.recipe, trainer.group, trainer.recipe.train
    plan = BatchPlan(train.seed, train.batch_size, trainer.step_number, train.num_steps, group.rank, group.world_size)
    if train.features is not None:
        file = FeatureFile(recipe, data, trainer.model, features_folder(trainer.folder))
        group.run_on_rank0(file.compute)
        return file.batches(plan)
    transform = TrainTransform(recipe.data, recipe.model.input.padding_rgb, train.seed)
    workers, timeout_s = recipe.data.workers, recipe.data.worker_timeout_s
    return train_batches(
        data, transform, plan, workers=workers, timeout_s=timeout_s, is_stopped=lambda: bool(trainer.stop)
    )


def _warn_of_changes(run: Path, before: JSONDict, now: JSONDict, *, is_done: bool) -> None:
    if has_changed(before, now):
        was = f"{before['images']} images then, {now['images']} now"
        if before["images"] == now["images"]:
            was = "the content of images, labels or classes is another"
        then = "the run is finished and stays as it is" if is_done else "the training continues with the present ones"
        log.warning(
            "%s: the training data have changed since its last checkpoint (%s); %s; --fresh begins anew", run, was, then
        )


def _validation_data(recipe: Recipe) -> SegmentationData | None:
    """Returns the split val, or None where the recipe asks for no validation, or for one only if there is a split."""
    if recipe.train.eval_every is None:
        return None
    try:
        return build_data(recipe, "val")
    except DataError as err:
        if recipe.train.eval_every != "auto" or recipe.train.patience is not None:
            raise
        log.warning("no validation: %s", err)
        return None


def _check_batch_size(recipe: Recipe, group: ProcessGroup) -> None:
    train = recipe.train
    micro_batches = group.world_size * train.accumulate
    if train.batch_size % micro_batches:
        shares = f"{group.world_size} ranks"
        if micro_batches > group.world_size:
            shares += f" in {train.accumulate} micro-batches each"
        err = ConfigError(
            f"train.batch_size: {train.batch_size} images per step cannot be shared equally by {shares}; change one"
        )
        err.is_relayed = not group.is_rank0  # every rank finds it by itself
        raise err
    rows, columns = recipe.data.crop_hw
    images = train.batch_size // group.world_size
    channels = recipe.model.input.channels * recipe.data.frames
    crop_bytes = (channels + 1) * images  # per pixel: uint8 image and label
    input_bytes = 4 * channels * images // train.accumulate  # per pixel: float32, of one micro-batch
    require_memory("train.batch_size crops of data.crop_hw", (crop_bytes + input_bytes) * rows * columns)


def build_trainer(
    recipe: Recipe, data: SegmentationData, checkpoint: Checkpoint | None, group: ProcessGroup, run: Path
) -> Trainer:
    """Returns a trainer at the start of the training run in the folder `run`, or at the step of `checkpoint`."""
    if recipe.train.deterministic:
        make_deterministic()
    with group.shared_errors():
        is_new = checkpoint is None and group.is_rank0  # the other ranks get their weights from rank 0
        model = build_model(recipe, data.table.num_classes, is_new=is_new)
    pixels = group.run_on_rank0(lambda: class_pixels(data)) if recipe.loss.needs_class_pixels else None
    trainer = Trainer(recipe, model, device_of(), class_pixels=pixels, group=group, folder=run)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    return trainer
