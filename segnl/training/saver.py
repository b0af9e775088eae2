"""The hook that saves a training run's checkpoints."""

import json
from pathlib import Path

import torch

from segnl.core.config import JSONDict
from segnl.core.environment import code_state
from segnl.core.errors import MachineError, NonFiniteError
from segnl.core.files import LOCK, inode, write_atomic
from segnl.data.sample import Batch
from segnl.labels.table import ClassTable
from segnl.runs.checkpoint import checkpoint_path, class_table_to_dict, drop_old_checkpoints, save_checkpoint
from segnl.training.hooks import FitResult, Hook
from segnl.training.trainer import StepReport, Trainer


class CheckpointSaver(Hook):
    """Saves every train.save_every and train.keep_every steps and at the end, on rank 0; an error is every rank's."""

    def __init__(self, class_table: ClassTable, data: JSONDict) -> None:
        """data: the training data's `data_record`."""
        self.class_table = class_table
        self.saved_step: int | None = None
        # Read now: when a checkpoint is saved, the checkout may hold other code than the one that runs.
        self.origin = code_state() | {"threads": torch.get_num_threads(), "data": data}

    def on_start(self, trainer: Trainer) -> None:
        """Notes the step that is on the disk, if any; writes the report of a run that starts from trained weights."""
        self.saved_step = trainer.step_number or None
        # No other file has these numbers while they are open.
        self.lock_inode, self.log_inode = inode(trainer.folder / LOCK), inode(trainer.folder / "log.jsonl")
        if trainer.model.init_report is not None:
            report = json.dumps(trainer.model.init_report, indent=1).encode()
            trainer.group.run_on_rank0(lambda: write_atomic(trainer.folder / "init.json", report))

    def on_step(self, trainer: Trainer, report: StepReport, batch: Batch) -> None:
        """Saves where it is due."""
        train = trainer.recipe.train
        if is_due(report.step, train.save_every) or is_due(report.step, train.keep_every):
            self.save(trainer)

    def on_end(self, trainer: Trainer, result: FitResult) -> None:
        """Saves what was learned, also when a data error ended it."""
        if result.error is None or trainer.step_number != (self.saved_step or 0):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Saves the present step, unless that is done; all processes call it.

        Raises NonFiniteError, and keeps the checkpoint before, when a weight is not finite; MachineError for the disk,
        when another folder is in the place of the run's, and, after saving, when its log is gone.
        """
        if trainer.step_number != self.saved_step:
            path = checkpoint_path(trainer.folder, trainer.step_number)
            trainer.group.run_on_rank0(lambda: self._write(trainer, path))
            self.saved_step = trainer.step_number
            trainer.call_hooks("on_save", path)

    def _write(self, trainer: Trainer, path: Path) -> None:
        if inode(trainer.folder / LOCK) != self.lock_inode:
            raise MachineError(
                f"{trainer.folder}: was moved or deleted during the training, so step {trainer.step_number} was not "
                "saved; put the folder back, and start again"
            )
        for name, weight in trainer.model.state_dict().items():
            if not bool(weight.isfinite().all()):
                raise NonFiniteError(
                    f"step {trainer.step_number}: {name} is no longer finite, so nothing was saved and the checkpoint "
                    "before is kept; lower optim.lr, and start again"
                )
        origin = self.origin | {"ranks": trainer.group.world_size}
        save_checkpoint(trainer.to_checkpoint(path, class_table_to_dict(self.class_table), origin))
        train = trainer.recipe.train
        drop_old_checkpoints(trainer.folder, train.keep_every, kept=[extension.at for extension in train.extended])
        if inode(trainer.folder / "log.jsonl") != self.log_inode:
            raise MachineError(
                f"{trainer.folder}/log.jsonl: was moved, deleted or replaced during the training; step "
                f"{trainer.step_number} is saved: put the log back, or start again without its earlier lines"
            )


def is_due(step: int, every: int | None) -> bool:
    """Returns whether something that happens every so many steps happens after step `step`; None: never."""
    return every is not None and step % every == 0
