"""A training run in its folder: prepares or resumes the run, then lets the trainer take its steps."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from segnl.core.config import JSONDict
from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup
from segnl.core.errors import ConfigError, DataError, StoppedError
from segnl.core.limits import require_memory, require_workers
from segnl.core.log import log
from segnl.data.annotations.labels import require_current
from segnl.data.base import SegmentationData
from segnl.data.cache import cache_samples
from segnl.data.digest import data_change, data_record
from segnl.data.label_counts import class_pixels, require_labelled
from segnl.data.loader import BatchPlan, train_batches
from segnl.data.sample import Batch
from segnl.data.transforms import TrainTransform
from segnl.runs.build import build_data, build_model, device_of, make_deterministic
from segnl.runs.checkpoint import Checkpoint, broadcast_checkpoint
from segnl.runs.folder import features_folder, lock_run_folder
from segnl.runs.recipe import Recipe, ScheduleAfter, deciding_keys
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
    loggers = list[Hook]()  # the other ranks have none
    with ExitStack() as stack:
        with group.shared_errors():
            require_workers(recipe.data.workers)
            if group.is_rank0:
                loggers = build_loggers(recipe.train.loggers, run)
            data, val_data = _open_data(recipe)
            final_recipe, checkpoint = recipe.with_steps(len(data)), None
            learned_from = deciding_keys(recipe.to_dict())
            record = data_record(data)
        group.require_equal(learned_from | {"the training data": record}, "give every machine the same recipe and data")
        with group.shared_errors():
            if group.is_rank0:
                locked = lock_run_folder(run, final_recipe, data.table, fresh=fresh, extend=extend)
                final_recipe, checkpoint = stack.enter_context(locked)
                if checkpoint is None:
                    require_current(data.label_folder())
                    require_labelled(data)
                elif change := data_change(checkpoint.origin.get("data", {}), record):
                    is_done = checkpoint.step >= final_recipe.train.num_steps
                    then = "the run is finished and stays as it is" if is_done else "the training continues with these"
                    text = "%s: the training data have changed since its last checkpoint (%s); %s; --fresh begins anew"
                    log.warning(text, run, change, then)
        final_recipe = group.run_on_rank0(lambda: final_recipe)  # a broadcast
        checkpoint = broadcast_checkpoint(checkpoint, group)
        Training(final_recipe, run, group, data, val_data, checkpoint, record).run(loggers, hooks)


def _open_data(recipe: Recipe) -> tuple[SegmentationData, SegmentationData | None]:
    """Returns the splits train and val.

    val is None where the recipe asks for no validation, or for one only if there is such a split.
    """
    data = build_data(recipe, "train")
    if recipe.train.eval_every is None:
        return data, None
    try:
        return data, build_data(recipe, "val")
    except DataError as err:
        if recipe.train.eval_every != "auto" or recipe.train.patience is not None:
            raise
        log.warning("no validation: %s", err)
        return data, None


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


@dataclass(frozen=True)
class Training:
    """A run that is ready to start or to go on, the same on all processes.

    recipe: with the steps of its epochs and the run's extensions. val_data: None where nothing is validated.
    checkpoint: None for a new run. record: `data_record` of the training data, on rank 0.
    """

    recipe: Recipe
    folder: Path
    group: ProcessGroup
    data: SegmentationData
    val_data: SegmentationData | None = None
    checkpoint: Checkpoint | None = None
    record: JSONDict = field(default_factory=dict)

    def run(self, loggers: Sequence[Hook], hooks: Sequence[Hook]) -> None:
        """Takes the steps that are missing. Raises StoppedError when a signal ends it after a checkpoint."""
        group, num_steps = self.group, self.recipe.train.num_steps
        trainer = self.build_trainer()
        saver = CheckpointSaver(self.data.table, self.record)
        validator = None if self.val_data is None else Validator(self.val_data, saver, trainer)
        is_out_of_patience = validator is not None and validator.patience.is_out
        is_validation_missing = validator is not None and validator.is_validation_missing
        if is_out_of_patience or (trainer.step_number >= num_steps and not is_validation_missing):
            if group.is_rank0:
                early = ", ended by train.patience" if is_out_of_patience else ""
                steps = trainer.step_number
                log.info("%s: already trained, %d of %d steps%s", self.folder, steps, num_steps, early)
            return
        with group.shared_errors():
            splits = [self.data] if self.val_data is None else [self.data, self.val_data]
            cache_samples(splits, is_shown=group.is_rank0)
        all_loggers = [TerminalLogger(), *loggers, JSONLLogger()] if group.is_rank0 else []
        validators = [] if validator is None else [validator]
        with closing(self._batches(trainer)) as batches:
            result = trainer.fit(batches, [*all_loggers, saver, *validators, *hooks])
        if result.stopped_by is not None:
            raise StoppedError(f"{self.folder}: stopped after step {result.steps}", 128 + result.stopped_by)

    def build_trainer(self) -> Trainer:
        """Returns a trainer at the run's first step, or at that of its checkpoint."""
        recipe, group = self.recipe, self.group
        if recipe.train.deterministic:
            make_deterministic()
        with group.shared_errors():
            is_new = self.checkpoint is None and group.is_rank0  # the other ranks get their weights from rank 0
            model = build_model(recipe, self.data.table.num_classes, is_new=is_new)
        pixels = group.run_on_rank0(lambda: class_pixels(self.data)) if recipe.loss.needs_class_pixels else None
        trainer = Trainer(recipe, model, device_of(), class_pixels=pixels, group=group, folder=self.folder)
        if self.checkpoint is not None:
            trainer.restore(self.checkpoint)
        return trainer

    def _batches(self, trainer: Trainer) -> Generator[Batch, None, None]:
        """Returns this process's batches, from the trainer's step to the last."""
        recipe, group, train = self.recipe, self.group, self.recipe.train
        first, num_steps = trainer.step_number, train.num_steps
        plan = BatchPlan(train.seed, train.batch_size, first, num_steps, group.rank, group.world_size)
        if train.features is not None:
            file = FeatureFile(recipe, self.data, trainer.model, features_folder(self.folder))
            group.run_on_rank0(file.compute)
            return file.batches(plan)
        transform = TrainTransform(recipe.data, recipe.model.input.padding_rgb, train.seed)
        workers, timeout_s = recipe.data.workers, recipe.data.worker_timeout_s
        return train_batches(
            self.data, transform, plan, workers=workers, timeout_s=timeout_s, is_stopped=lambda: bool(trainer.stop)
        )
