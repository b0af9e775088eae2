"""TensorBoard: RUN/events.*, written when `train.tensorboard` is true (the extra `tensorboard`).

log.jsonl holds the same numbers and is what segnl itself reads; this is for people who have TensorBoard open anyway.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segnl.core.arrays import Pixels
from segnl.core.errors import MachineError
from segnl.data.sample import Batch
from segnl.labels.table import ClassTable
from segnl.training.hooks import FitResult, Hook, Validation
from segnl.training.trainer import StepReport, Trainer

STRIP_IMAGES = 4
PANEL_PX = 320
"""Largest width of a panel of the strip."""


class TensorBoardLogger(Hook):
    """Losses and learning rate of every step; at validations the IoU of each class and a strip of the same images."""

    def __init__(self, run: Path, *, first_step: int = 0) -> None:
        """first_step: what a killed run wrote of later steps is hidden.

        Raises MachineError when tensorboard is not installed.
        """
        self._writer = _writer_class()(log_dir=str(run), purge_step=first_step + 1 if first_step else None)

    def on_step(self, trainer: Trainer, report: StepReport, batch: Batch) -> None:
        """Writes the step's numbers."""
        scalars = {"train/loss": report.loss, "train/lr": report.lr}
        optional = {"train/grad_norm": report.grad_norm, "train/loss_scale": report.loss_scale}
        scalars |= {name: value for name, value in optional.items() if value is not None}
        scalars |= {f"train/loss_{name}": value for name, value in report.losses.items() if len(report.losses) > 1}
        for name, value in (scalars | {"speed/images_per_s": report.images_per_s}).items():
            self._writer.add_scalar(name, value, report.step)

    def on_validation(self, trainer: Trainer, validation: Validation) -> None:
        """Writes mIoU, the IoU of every class that labels or predictions hold, and the strip."""
        step, confusion, data = validation.step, validation.confusion, validation.data
        scalars = {"val/miou": confusion.miou(), "val/pixel_acc": confusion.pixel_acc(), "val/loss": validation.loss}
        scalars |= {f"val_iou/{name}": float(iou) for name, iou in zip(data.table.names, confusion.iou(), strict=True)}
        for name, value in scalars.items():
            if np.isfinite(value):
                self._writer.add_scalar(name, value, step)
        for i in strip_indices(len(data)):
            sample = data.read(i)
            prediction = validation.predictor.predict(sample.image)
            panels = strip(sample.image, sample.label, prediction, data.table)
            self._writer.add_image(f"image_truth_prediction/{sample.id}", panels, step, dataformats="HWC")
        self._writer.flush()

    def on_end(self, trainer: Trainer, result: FitResult) -> None:
        """Writes out what is in memory."""
        self._writer.close()

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        """Writes out what is in memory."""
        self._writer.close()


def strip_indices(num_images: int) -> list[int]:
    """Returns the images that the strip shows: spread over the split, always the same."""
    return sorted({round(i) for i in np.linspace(0, num_images - 1, min(STRIP_IMAGES, num_images))})


def strip(image: Pixels, label: Pixels, prediction: Pixels, table: ClassTable) -> Pixels:
    """Returns image, label and prediction side by side, RGB u8 `h w 3`; ignored pixels are black.

    Colours of classes are never mixed, also where the strip is smaller than the image.
    """
    height, width = label.shape
    factor = min(1.0, PANEL_PX / width)
    wh = (max(1, round(width * factor)), max(1, round(height * factor)))
    colours = [(table.colour(ids), Image.Resampling.NEAREST) for ids in (label, prediction)]
    panels = [(image, Image.Resampling.BOX), *colours]
    return np.hstack([np.asarray(Image.fromarray(pixels).resize(wh, how), np.uint8) for pixels, how in panels])


def ensure_installed() -> None:
    """Raises MachineError when the package tensorboard is not installed."""
    _writer_class()


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as err:
        raise MachineError(
            "train.tensorboard needs tensorboard, not installed: ./run.sh extra tensorboard; or set it to false"
        ) from err
    return SummaryWriter
