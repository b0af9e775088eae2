"""The contract of a logger, and the numbers that segnl's own ones show."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segnl.core.arrays import Pixels
from segnl.core.config import Config
from segnl.core.extras import import_extra
from segnl.core.files import read_json, write_atomic
from segnl.data.reading import rgb_view
from segnl.labels.table import ClassTable
from segnl.training.hooks import Hook, Validation
from segnl.training.trainer import StepReport

STRIP_IMAGES = 4
PANEL_PX = 320
"""Largest width of a panel of a strip."""


class LoggerConfig(Config):
    """Settings of a logger; a subclass adds its own."""

    name: str


class Logger(Hook):
    """Base class of loggers: hooks that write somewhere what happens; a file ends with `LOGGER = THE_CLASS`.

    Its moments are called on rank 0 alone. An exception in one switches the logger off with a warning, and the training
    continues. A resumed run gets a new logger; what an earlier one wrote of steps after `trainer.step_number` at
    `on_start` comes again.
    """

    Config: type[LoggerConfig] = LoggerConfig

    def __init__(self, cfg: Any, run: Path) -> None:
        """Imports the logger's package; begins nothing before `on_start`. run: the run's folder."""
        self.cfg, self.run = cfg, run

    def stored_id(self) -> str | None:
        """Returns the id that the tracker gave this run at an earlier start; None at the first."""
        return _stored_ids(self.run).get(self.cfg.name)

    def store_id(self, tracker_id: str) -> None:
        """Stores the tracker's id of this run in RUN/loggers.json."""
        ids = _stored_ids(self.run) | {self.cfg.name: tracker_id}
        write_atomic(self.run / "loggers.json", json.dumps(ids, indent=1).encode())


def _stored_ids(run: Path) -> dict[str, str]:
    path = run / "loggers.json"
    return dict(read_json(path)) if path.exists() else {}


def import_tracker(module: str, extra: str) -> Any:
    """Imports the package of a logger. Raises MachineError naming the extra where it is not installed."""
    return import_extra(module, extra, f"train.loggers: {extra} is not installed")


def step_numbers(report: StepReport) -> dict[str, float]:
    """Returns a step's losses, learning rate and speed by name, as far as they are finite."""
    numbers = {"train/loss": report.loss, "train/lr": report.lr, "speed/images_per_s": report.images_per_s}
    if len(report.losses) > 1:
        numbers |= {f"train/loss_{name}": value for name, value in report.losses.items()}
    optional = {"train/grad_norm": report.grad_norm, "train/loss_scale": report.loss_scale}
    numbers |= {name: value for name, value in optional.items() if value is not None}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def validation_numbers(validation: Validation) -> dict[str, float]:
    """Returns mIoU, pixel accuracy, loss, eval.metrics and the IoU of every class by name, where they are defined."""
    confusion = validation.confusion
    numbers = {"val/miou": confusion.miou(), "val/pixel_acc": confusion.pixel_acc(), "val/loss": validation.loss}
    numbers |= {f"val/{name}": value for name, value in validation.metrics.items()}
    ious = zip(validation.data.table.names, confusion.iou().tolist(), strict=True)
    numbers |= {f"val_iou/{name}": iou for name, iou in ious}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def validation_strips(validation: Validation) -> Iterator[tuple[str, Pixels]]:
    """Yields sample id and strip of a few images, the same ones at every validation."""
    data = validation.data
    for i in strip_indices(len(data)):
        sample = data.read(i)
        prediction = validation.predictor.predict(sample.image)
        yield sample.id, strip(sample.image, sample.label, prediction, data.table)


def strip_indices(num_images: int) -> list[int]:
    """Returns the images that strips are made of: spread over the split, always the same."""
    return sorted({round(i) for i in np.linspace(0, num_images - 1, min(STRIP_IMAGES, num_images))})


def strip(image: Pixels, label: Pixels, prediction: Pixels, table: ClassTable) -> Pixels:
    """Returns image, label and prediction side by side, RGB u8 `h w 3`; ignored pixels are black.

    Colours of classes are never mixed, also where the strip is smaller than the image.
    """
    height, width = label.shape
    factor = min(1.0, PANEL_PX / width)
    wh = (max(1, round(width * factor)), max(1, round(height * factor)))
    colours = [(table.colour(ids), Image.Resampling.NEAREST) for ids in (label, prediction)]
    panels = [(rgb_view(image), Image.Resampling.BOX), *colours]
    return np.hstack([np.asarray(Image.fromarray(pixels).resize(wh, how), np.uint8) for pixels, how in panels])
