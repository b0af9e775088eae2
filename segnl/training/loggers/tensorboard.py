"""TensorBoard: RUN/events.* (the extra `tensorboard`)."""

from pathlib import Path
from typing import Any

from segnl.data.sample import Batch
from segnl.training.hooks import FitResult, Validation
from segnl.training.loggers.base import Logger, import_tracker, step_numbers, validation_numbers, validation_strips
from segnl.training.trainer import StepReport, Trainer


class TensorBoardLogger(Logger):
    """Losses and learning rate of every step; at validations the IoU of each class and strips of the same images."""

    def __init__(self, cfg: Any, run: Path) -> None:
        super().__init__(cfg, run)
        self._writer_class = import_tracker("torch.utils.tensorboard", "tensorboard").SummaryWriter

    def on_start(self, trainer: Trainer) -> None:
        """Opens the file; what a killed run wrote of later steps is hidden."""
        first_step = trainer.step_number
        self._writer = self._writer_class(log_dir=str(self.run), purge_step=first_step + 1 if first_step else None)

    def on_step(self, trainer: Trainer, report: StepReport, batch: Batch) -> None:
        """Writes the step's numbers."""
        self._write(step_numbers(report), report.step)

    def on_validation(self, trainer: Trainer, validation: Validation) -> None:
        """Writes the scores and the strips."""
        self._write(validation_numbers(validation), validation.step)
        for sample_id, panels in validation_strips(validation):
            self._writer.add_image(f"image_truth_prediction/{sample_id}", panels, validation.step, dataformats="HWC")
        self._writer.flush()

    def on_end(self, trainer: Trainer, result: FitResult) -> None:
        """Writes out what is in memory."""
        self._writer.close()

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        """Writes out what is in memory."""
        self._writer.close()

    def _write(self, numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)


LOGGER = TensorBoardLogger
