"""Hooks: what happens around the steps of a training. Saving, validating and logging are hooks; anybody can add one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from segnl.core.errors import SegnlError
from segnl.data.base import SegmentationData
from segnl.data.sample import Batch
from segnl.evaluation.predictor import Predictor
from segnl.metrics.confusion import Confusion

if TYPE_CHECKING:
    from segnl.training.trainer import StepReport, Trainer

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that end a training run after a checkpoint; the first one counts where processes got different ones."""


class FitResult(NamedTuple):
    """End of a training run that no exception has interrupted."""

    steps: int
    """Steps taken in all, those of earlier starts included."""
    stopped_by: signal.Signals | None = None
    """The signal that asked for the end; None when all steps are done."""
    error: SegnlError | None = None
    """For `Hook.on_end` alone: the data error that ends the training and is raised afterwards."""


@dataclass(frozen=True)
class Validation:
    """A finished validation.

    step: steps taken before it. loss: mean cross-entropy over the labelled pixels. is_best: by train.best_by, so far.
    """

    step: int
    confusion: Confusion
    loss: float
    is_best: bool
    predictor: Predictor
    data: SegmentationData
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Values of eval.metrics by name."""


class Hook:
    """Base class of hooks; a subclass overrides the moments it needs.

    Every process calls its hooks at the same moments, in the order of the list; `on_end` and `on_error` in the reverse
    order, so that the log is closed last. `trainer.group.is_rank0` tells which process writes, `trainer.folder` where.
    """

    def on_start(self, trainer: Trainer) -> None:
        """Called before the first step of this start, which is number `trainer.step_number` counted from 0."""

    def on_step(self, trainer: Trainer, report: StepReport, batch: Batch) -> None:
        """Called after each step. batch: this process's images."""

    def on_validation(self, trainer: Trainer, validation: Validation) -> None:
        """Called after each validation."""

    def on_save(self, trainer: Trainer, path: Path) -> None:
        """Called after the checkpoint `path` was written."""

    def on_end(self, trainer: Trainer, result: FitResult) -> None:
        """Called on all processes together when the steps are done, a signal stops them or a batch cannot be read."""

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        """Called instead of `on_end` when a step or a hook raises, perhaps on this process alone: wait for no other."""


@contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """Collects STOP_SIGNALS in a list instead of letting them end the process; the step at hand is finished first.

    SIGHUP, a closed terminal, stays ignored where it is ignored, as under nohup.
    """
    received: list[signal.Signals] = []
    process = os.getpid()

    def receive(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a data worker that has just been forked and has not set its own handlers yet
            os._exit(128 + number)
        received.append(signal.Signals(number))

    handled = [n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, receive) for number in handled}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
