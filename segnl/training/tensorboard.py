"""TensorBoard's view of a training: RUN/events.*, written when `train.tensorboard` is true (the extra `watch`).

log.jsonl holds the same numbers and is what segnl itself reads; this is for people who have TensorBoard open anyway.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segnl.core.arrays import Pixels
from segnl.core.errors import MachineError
from segnl.data.base import SegmentationData
from segnl.evaluation.predictor import Predictor
from segnl.labels.table import ClassTable
from segnl.metrics.confusion import Confusion
from segnl.training.trainer import StepReport

STRIP_IMAGES = 4
PANEL_PX = 320
"""Widest a panel of the strip gets."""


class TensorBoardLogger:
    """Losses and learning rate of every step; at validations per-class IoU and a strip of the same few images."""

    def __init__(self, run: Path, *, is_on: bool, first_step: int = 0) -> None:
        """first_step: what was written of later steps by a run that was killed is hidden.

        Raises MachineError when it is on and tensorboard is not installed.
        """
        self._writer: Any = None
        if is_on:
            self._writer = _writer_class()(log_dir=str(run), purge_step=first_step + 1 if first_step else None)

    def step(self, report: StepReport, images_per_s: float) -> None:
        """One training step."""
        if self._writer is None:
            return
        scalars = {"train/loss": report.loss, "train/lr": report.lr}
        extra = {"train/grad_norm": report.grad_norm, "train/loss_scale": report.loss_scale}
        scalars |= {name: value for name, value in extra.items() if value is not None}
        scalars |= {f"train/loss_{name}": value for name, value in report.losses.items() if len(report.losses) > 1}
        for name, value in (scalars | {"speed/images_per_s": images_per_s}).items():
            self._writer.add_scalar(name, value, report.step)

    def validated(self, step: int, confusion: Confusion, predictor: Predictor, data: SegmentationData) -> None:
        """mIoU, IoU of every class that is in truth or prediction, and the strip."""
        if self._writer is None:
            return
        scalars = {"val/miou": confusion.miou(), "val/pixel_acc": confusion.pixel_acc()}
        scalars |= {f"val_iou/{name}": float(iou) for name, iou in zip(data.table.names, confusion.iou(), strict=True)}
        for name, value in scalars.items():
            if np.isfinite(value):
                self._writer.add_scalar(name, value, step)
        for i in strip_indices(len(data)):
            sample = data.read(i)
            panels = strip(sample.image, sample.label, predictor.predict(sample.image), data.table)
            self._writer.add_image(f"image_truth_prediction/{sample.id}", panels, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Nothing that was written is lost after it."""
        if self._writer is not None:
            self._writer.close()


def strip_indices(num_images: int) -> list[int]:
    """Which images the strip shows, spread over the split, always the same."""
    return sorted({round(i) for i in np.linspace(0, num_images - 1, min(STRIP_IMAGES, num_images))})


def strip(image: Pixels, label: Pixels, predicted: Pixels, table: ClassTable) -> Pixels:
    """Image, truth and prediction side by side, RGB u8 `h w 3`; void is black. Labels keep their colours unmixed."""
    height, width = label.shape
    factor = min(1.0, PANEL_PX / width)
    wh = (max(1, round(width * factor)), max(1, round(height * factor)))
    panels = [(image, Image.Resampling.BOX), *((table.colour(x), Image.Resampling.NEAREST) for x in (label, predicted))]
    return np.hstack([np.asarray(Image.fromarray(pixels).resize(wh, how), np.uint8) for pixels, how in panels])


def ensure_installed(*, is_on: bool) -> None:
    """Raises MachineError when TensorBoard's files are wanted and the package is not installed."""
    if is_on:
        _writer_class()


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as err:
        raise MachineError(
            "train.tensorboard needs tensorboard, not installed: ./run.sh extra watch; or set it to false"
        ) from err
    return SummaryWriter
