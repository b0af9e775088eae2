"""A whole training in its folder: starts or resumes, saves, validates, logs, and stops when asked."""

import math
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import torch

from segnl.core.config import dump_yaml
from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup
from segnl.core.environment import git_state, versions
from segnl.core.errors import CheckpointError, ConfigError, NonFiniteError, SegnlError, StoppedError
from segnl.core.files import LOCK, ensure_writable, remove_leftovers, run_lock, write_atomic
from segnl.core.limits import require_memory
from segnl.core.progress import Progress
from segnl.core.run_log import NoLog, RunLog, read_log
from segnl.data.base import SegmentationData
from segnl.data.check import class_pixels
from segnl.data.loader import BatchPlan, train_batches
from segnl.data.sample import Batch
from segnl.data.transforms import TrainTransform
from segnl.evaluation.evaluate import evaluate
from segnl.evaluation.predictor import Predictor
from segnl.losses.base import class_weights
from segnl.models.norm import norm_note, resolve_norm
from segnl.runs.build import build_data, build_model, device_of, make_deterministic, padding_rgb
from segnl.runs.checkpoint import (
    Checkpoint,
    broadcast_checkpoint,
    checkpoint_path,
    drop_old_checkpoints,
    keep_as_best,
    load_weights,
    newest_checkpoint,
    optimiser_tensors,
    restore_optimiser,
    save_checkpoint,
    set_damaged_aside,
)
from segnl.runs.classes import class_table_to_dict
from segnl.runs.recipe import Recipe, differing_keys
from segnl.training.run_hashes import batch_hash, initial_hashes, module_hashes
from segnl.training.tensorboard import TensorBoardLogger, ensure_installed
from segnl.training.trainer import StepReport, Trainer

STOPPED_BY = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def fit(recipe: Recipe, run: Path, *, fresh: bool = False, group: ProcessGroup = SINGLE_PROCESS) -> None:
    """Trains `recipe` in the folder `run`, from its newest whole checkpoint if it has one.

    fresh: an old run is moved aside first. group: rank 0 alone touches the folder; the others learn from it.
    Raises StoppedError when a signal stopped it after a checkpoint; ConfigError when the folder is in use, or holds
    another recipe, naming the keys that differ.
    """
    _check_batch(recipe, group)
    group.run_on_rank0(lambda: ensure_writable(run))
    group.run_on_rank0(lambda: ensure_installed(is_on=recipe.train.tensorboard))
    train_data, val_data = group.run_on_all(lambda: (build_data(recipe, "train"), _validation_data(recipe)))
    with ExitStack() as held:
        checkpoint = broadcast_checkpoint(group, lambda: _open_run(recipe, run, train_data, held, fresh=fresh))
        trainer = _trainer(recipe, train_data, checkpoint, group)
        group.run_on_rank0(lambda: write_atomic(run / "recipe.yaml", dump_yaml(recipe.to_dict()).encode()))
        session = _Session(recipe, run, trainer, train_data, val_data)
        session.train()


def _check_batch(recipe: Recipe, group: ProcessGroup) -> None:
    images, pieces = recipe.train.batch_size, group.world_size * recipe.train.accumulate
    if images % pieces:
        each = f"{group.world_size} ranks" + (
            f" in {recipe.train.accumulate} pieces each" if pieces > group.world_size else ""
        )
        err = ConfigError(f"train.batch_size: {images} images a step cannot be shared equally by {each}; change one")
        err.is_relayed = not group.is_rank0  # all find it by themselves
        raise err
    rows, columns = recipe.data.crop_hw
    images //= group.world_size
    uint8_bytes, float_bytes = 4 * images, 12 * images // recipe.train.accumulate
    require_memory("train.batch_size crops of data.crop_hw", (uint8_bytes + float_bytes) * rows * columns)


def _open_run(recipe: Recipe, run: Path, data: SegmentationData, held: ExitStack, *, fresh: bool) -> Checkpoint | None:
    """Takes the run's folder, for as long as `held` lasts; returns what to go on from."""
    if fresh:
        _move_aside(run)
    held.enter_context(run_lock(run))
    remove_leftovers(run)
    checkpoint = newest_checkpoint(run)
    if checkpoint is not None:
        _same_training(recipe, data, checkpoint)
        set_damaged_aside(run, checkpoint)
    return checkpoint


def _validation_data(recipe: Recipe) -> SegmentationData | None:
    return build_data(recipe, "val") if recipe.train.eval_every is not None else None


def _trainer(recipe: Recipe, data: SegmentationData, checkpoint: Checkpoint | None, group: ProcessGroup) -> Trainer:
    if recipe.train.deterministic:
        make_deterministic()
    is_new = checkpoint is None and group.is_rank0  # the others get their weights from rank 0
    model = group.run_on_all(lambda: build_model(recipe, data.table.num_classes, is_new=is_new))
    balance = recipe.loss.class_weight
    class_weight = group.run_on_rank0(lambda: None if balance is None else class_weights(balance, class_pixels(data)))
    trainer = Trainer(recipe, model, device_of(), class_weight=class_weight, group=group)
    if checkpoint is not None:
        load_weights(trainer.model, checkpoint)
        if trainer.ema is not None:
            load_weights(trainer.ema.model, checkpoint, averaged=True)
        restore_optimiser(trainer.optimiser, trainer.model, checkpoint.optim)
        trainer.step_number = checkpoint.step
        if trainer.loss_scale is not None:
            trainer.loss_scale.restore(checkpoint.loss_scale)
    return trainer


def _move_aside(run: Path) -> None:
    with run_lock(run):
        if all(path.name == LOCK for path in run.iterdir()):
            return  # there is no old run
        number = next(n for n in range(1, 10_000) if not run.with_name(f"{run.name}.old{n}").exists())
        run.rename(run.with_name(f"{run.name}.old{number}"))
    run.mkdir()


def _same_training(recipe: Recipe, data: SegmentationData, checkpoint: Checkpoint) -> None:
    differing = differing_keys(recipe.to_dict(), checkpoint.recipe)
    if differing:
        raise ConfigError(
            f"{checkpoint.path.parent}: was begun with another recipe, which differs in {', '.join(differing)}; "
            "give another --run name, or --fresh to move the old run aside"
        )
    then, now = checkpoint.classes, class_table_to_dict(data.table)
    if any(then[key] != now[key] for key in ("names", "file_ids")):
        raise CheckpointError(
            f"{checkpoint.path}: was trained on other classes ({', '.join(then['names'][:3])} ...) than those of "
            f"{recipe.data.root}; give its own data.root, or --fresh"
        )


class _Session:
    """One start of a training, from `trainer.step_number` on."""

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        trainer: Trainer,
        train_data: SegmentationData,
        val_data: SegmentationData | None,
    ) -> None:
        self.recipe, self.run, self.trainer, self.group = recipe, run, trainer, trainer.group
        self.train_data, self.val_data = train_data, val_data
        self.best_miou = -math.inf
        self.saved_step = trainer.step_number if trainer.step_number else -1
        # Taken now: at the time of a save the checkout may hold other code than the one that runs.
        self.origin = {
            "git": git_state(Path(__file__).parent),
            "versions": versions(),
            "threads": torch.get_num_threads(),
            "ranks": trainer.group.world_size,
        }

    def train(self) -> None:
        """Trains to the last step, or raises StoppedError."""
        cfg, first = self.recipe.train, self.trainer.step_number
        is_unscored = self._recall_scores(first)
        if first >= cfg.max_steps and not is_unscored:
            self._say(f"{self.run}: already trained, {first} of {cfg.max_steps} steps")
            return
        log = self._open_log(first)
        self.watch = TensorBoardLogger(self.run, is_on=cfg.tensorboard and self.group.is_rank0, first_step=first)
        with stop_signals() as stop:  # until all is said: Ctrl-C pressed again must not spoil a stop that was asked for
            code = self._to_the_end(log, stop, is_unscored=is_unscored)
            step = self.trainer.step_number
            if code:
                message = f"{self.run}: stopped after step {step}; the same command resumes from there"
                self._say(message)
                raise StoppedError(message, code)
            self._say(f"{self.run}: trained {cfg.max_steps} steps; score it: segnl eval --checkpoint {self.run}")

    def _to_the_end(self, log: RunLog | NoLog, stop: list[int], *, is_unscored: bool) -> int:
        """The steps to come, or those until `stop`; the log and the watch are closed then. Returns the exit code."""
        cfg, first, code = self.recipe.train, self.trainer.step_number, 0
        batches = self._batches(first)
        try:
            with Progress(self.run.name, cfg.max_steps, done=first, is_shown=self.group.is_rank0) as progress:
                if is_unscored:
                    self._validate(log, progress, stop)
                while self.trainer.step_number < cfg.max_steps:
                    began = time.perf_counter()
                    try:
                        batch, code = self._next_batch(batches, stop)
                    except SegnlError:  # of the data or of a worker, on all ranks: what was learned is sound
                        if self.trainer.step_number > first:
                            self._save()
                        raise
                    if code:
                        break
                    report = self._step(batch, began, log, progress)
                    if _is_due(report.step, cfg.save_every) or _is_due(report.step, cfg.keep_every):
                        self._save()
                    if _is_due(report.step, cfg.eval_every):
                        self._validate(log, progress, stop)
                self._save()
                batches.close()  # ends the workers
                (code,) = self.group.all_reduce_max([stop[0] if stop else 0])
            log.write(event="stop" if code else "end", step=self.trainer.step_number)
        except NonFiniteError as err:
            log.write(event="non_finite", step=self.trainer.step_number, detail=str(err))
            raise
        finally:
            log.close()
            self.watch.close()
        return code

    def _recall_scores(self, first: int) -> bool:
        """Takes up the best score of earlier starts; whether a kill left out the validation of step `first`."""

        def recall() -> tuple[float, bool]:
            evals = [line for line in read_log(self.run / "log.jsonl") if line.get("event") == "eval"]
            scores = {line["step"]: line["miou"] for line in evals if line["step"] <= first}
            best = max((miou for miou in scores.values() if miou is not None), default=-math.inf)
            return best, first > 0 and _is_due(first, self.recipe.train.eval_every) and first not in scores

        self.best_miou, is_unscored = self.group.run_on_rank0(recall)
        return is_unscored

    def _say(self, text: str) -> None:
        if self.group.is_rank0:
            with suppress(OSError):  # whoever read it may have gone
                print(text, flush=True)

    def _open_log(self, first: int) -> RunLog | NoLog:
        opened: list[RunLog] = []
        self.group.run_on_rank0(lambda: opened.append(RunLog(self.run / "log.jsonl", resume_step=first)))
        log = opened[0] if opened else NoLog()
        norm, world = self.recipe.model.norm, self.group.world_size
        images = self.recipe.train.batch_size // self.recipe.train.accumulate
        self._say(norm_note(norm, images=images, world=world))
        log.write(
            event="start",
            step=first,
            device=str(self.trainer.device),
            ranks=world,
            norm=resolve_norm(norm, world=world),
            versions=versions(),
            **({} if first else {"init": module_hashes(initial_hashes(self.trainer.model))}),
        )
        return log

    def _next_batch(self, batches: Iterator[Batch], stop: list[int]) -> tuple[Batch, int]:
        """The rank's next images, and the exit code once any rank is to stop: the one place where ranks agree on it.

        A signal comes before a fault: Ctrl-C and SIGTERM may reach the workers' group too, and one that died of it is
        no fault.
        """
        batch, fault = Batch(torch.empty(0), torch.empty(0), []), None
        try:
            batch = next(batches)
        except SegnlError as err:
            fault = err
        code, is_faulty = self.group.all_reduce_max([stop[0] if stop else 0, int(fault is not None)])
        if not code and is_faulty:
            self.group.raise_on_all(fault)
        return batch, code

    def _step(self, batch: Batch, began: float, log: RunLog | NoLog, progress: Progress) -> StepReport:
        waited = time.perf_counter() - began
        report = self.trainer.step(batch)
        rate = self.recipe.train.batch_size / (time.perf_counter() - began)
        fields = _reported(report) | {"data_s": waited, "images_per_s": rate, "batch": batch_hash(batch)}
        log.write(**_rounded(fields))
        self.watch.step(report, rate)
        skipped = f", skipped: its gradients overflow at loss scale {report.loss_scale}" if report.is_skipped else ""
        progress.advance(f"loss {report.loss:.4f}, lr {report.lr:.2g}, {rate:.1f} images/s{skipped}")
        return report

    def _batches(self, first: int) -> Generator[Batch, None, None]:
        cfg = self.recipe
        transform = TrainTransform(cfg.data, padding_rgb(cfg.model.input), cfg.train.seed)
        return train_batches(
            self.train_data,
            transform,
            BatchPlan(
                cfg.train.seed,
                cfg.train.batch_size,
                first,
                cfg.train.max_steps,
                rank=self.group.rank,
                world=self.group.world_size,
            ),
            workers=cfg.data.workers,
            timeout_s=cfg.data.worker_timeout_s,
        )

    def _validate(self, log: RunLog | NoLog, progress: Progress, stop: list[int]) -> None:
        if self.val_data is None:
            return
        self._save()  # a long validation must not cost what was learned before it
        model = self.trainer.evaluated
        if self.group.world_size > 1:  # running statistics may be each rank's own: scored is what rank 0 has and saves
            model.load_state_dict(self.group.broadcast(model.state_dict()))
        predictor = Predictor(model, self.recipe, self.val_data.table, self.trainer.device)
        confusion = evaluate(
            predictor, self.val_data, recipe=self.recipe, should_stop=lambda: bool(stop), group=self.group
        )
        if any(self.group.all_reduce_max([len(stop)])):
            return
        step, miou = self.trainer.step_number, confusion.miou()
        is_best = miou > self.best_miou
        if is_best:
            self.best_miou = miou
            self.group.run_on_rank0(lambda: keep_as_best(checkpoint_path(self.run, step)))
        log.write(event="eval", split="val", step=step, miou=miou if math.isfinite(miou) else None)
        self.watch.validated(step, confusion, predictor, self.val_data)
        progress.say(f"step {step}: val mIoU {miou:.4f}" + (", the best so far" if is_best else ""))

    def _save(self) -> None:
        """Rank 0 writes; a full disk is every rank's fault."""
        if self.trainer.step_number != self.saved_step:
            self.group.run_on_rank0(self._write_checkpoint)
            self.saved_step = self.trainer.step_number

    def _write_checkpoint(self) -> None:
        step, ema = self.trainer.step_number, self.trainer.ema
        weights = self.trainer.model.state_dict()
        broken = next((name for name, value in weights.items() if not bool(value.isfinite().all())), None)
        if broken is not None:
            raise NonFiniteError(
                f"step {step}: {broken} is no longer finite, so nothing was saved and the checkpoint before is kept; "
                "lower optim.lr, and start again"
            )
        save_checkpoint(
            checkpoint_path(self.run, step),
            model=weights,
            optimiser=optimiser_tensors(self.trainer.optimiser, self.trainer.model),
            step=step,
            recipe=self.recipe.to_dict(),
            classes=class_table_to_dict(self.train_data.table),
            origin=self.origin,
            ema=ema.model.state_dict() if ema is not None else None,
            loss_scale=self.trainer.loss_scale.state() if self.trainer.loss_scale is not None else None,
        )
        drop_old_checkpoints(self.run, self.recipe.train.keep_every)


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _reported(report: StepReport) -> dict[str, object]:
    """The fields of a step's log line; those of the loss scale where there is one."""
    fields = asdict(report)
    is_skipped = fields.pop("is_skipped")
    if fields.pop("loss_scale") is None:
        return fields
    return fields | {"loss_scale": report.loss_scale, "skipped": is_skipped}


def _rounded(fields: dict[str, object]) -> dict[str, object]:
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in fields.items()}


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that holds the exit code once Ctrl-C, SIGTERM or SIGHUP came; the step at hand is finished first.

    SIGHUP, a closed terminal, stays ignored where it is, as under nohup.
    """
    stop: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        stop.append(STOPPED_BY[signal.Signals(number)])

    heard = [each for each in STOPPED_BY if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
