"""RUN/log.jsonl: one JSON object a line, for every step and event; what segnl itself reads."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from segnl.core.environment import versions
from segnl.core.errors import NonFiniteError
from segnl.core.files import cannot_write, write_atomic
from segnl.core.run_log import read_log
from segnl.data.sample import Batch
from segnl.models.norm import resolve_norm
from segnl.training.hooks import FitResult, Hook, Validation
from segnl.training.run_hashes import batch_hash, initial_hashes, module_hashes
from segnl.training.trainer import StepReport, Trainer


class JSONLLogger(Hook):
    """Appends to log.jsonl; each line is on its way to the disk when the hook returns."""

    path: Path
    _file: TextIO | None = None

    def open(self, path: Path, *, first_step: int = 0) -> None:
        """Opens the log. Lines of steps after `first_step` are dropped, since those are taken again; so is a cut line.

        Raises MachineError, as all its hooks do, when the file cannot be written.
        """
        self.path = path
        kept = [line for line in read_log(path) if line.get("step", 0) <= first_step]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as err:
            raise cannot_write(path, err) from err

    def on_start(self, trainer: Trainer) -> None:
        """Opens the log and writes the start, with the hashes of the initial weights where it is the first."""
        step, world, extended = trainer.step_number, trainer.group.world_size, trainer.recipe.train.extended
        self.open(trainer.folder / "log.jsonl", first_step=step)
        self.write(
            event="start",
            step=step,
            device=str(trainer.device),
            ranks=world,
            norm=resolve_norm(trainer.recipe.model.norm, world=world),
            versions=versions(),
            **({"extended": [entry.model_dump() for entry in extended]} if extended else {}),
            **({} if trainer.init is None else {"init_file": trainer.init}),
            **({} if step else {"init": module_hashes(initial_hashes(trainer.model))}),
        )

    def on_step(self, trainer: Trainer, report: StepReport, batch: Batch) -> None:
        """Writes the step's numbers, rounded to six digits."""
        line: dict[str, object] = {"step": report.step, "loss": report.loss, "losses": report.losses}
        line |= {name: getattr(report, name) for name in ("lr", "grad_norm", "forward_s", "backward_s", "optim_s")}
        if report.loss_scale is not None:
            line |= {"loss_scale": report.loss_scale, "skipped": report.is_skipped}
        line |= {"data_s": report.data_s, "images_per_s": report.images_per_s, "batch": batch_hash(batch)}
        self.write(**{key: float(f"{x:.6g}") if isinstance(x, float) else x for key, x in line.items()})

    def on_validation(self, trainer: Trainer, validation: Validation) -> None:
        """Writes mIoU, loss and the values of eval.metrics, null where they are undefined."""

        def finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
            return {name: value if math.isfinite(value) else None for name, value in numbers.items()}

        scores = finite({"miou": validation.confusion.miou(), "loss": validation.loss})
        metrics = {"metrics": finite(validation.metrics)} if validation.metrics else {}
        self.write(event="eval", split="val", step=validation.step, **scores, **metrics)

    def on_end(self, trainer: Trainer, result: FitResult) -> None:
        """Writes the end, unless it is an error of the data."""
        if result.error is None:
            self.write(event="end" if result.stopped_by is None else "stop", step=result.steps)
        self.close()

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        """Writes that the loss or the gradient was not finite."""
        if isinstance(error, NonFiniteError):
            self.write(event="non_finite", step=trainer.step_number, detail=str(error))
        self.close()

    def write(self, **line: object) -> None:
        """Appends one line; does nothing before the log is open and after it is closed."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as err:
            raise cannot_write(self.path, err) from err

    def close(self) -> None:
        """Makes the log outlive a power cut."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        except OSError as err:
            raise cannot_write(self.path, err) from err
