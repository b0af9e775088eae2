"""Weights & Biases (the extra `wandb`); its files are in RUN/wandb.

Without network: `mode: offline` or the environment variable WANDB_MODE=offline; `wandb sync RUN/wandb/offline-*`
uploads the run later.
"""

import secrets
from pathlib import Path
from typing import Any, Literal

from segnl.core.log import log
from segnl.data.sample import Batch
from segnl.training.hooks import FitResult, Validation
from segnl.training.loggers.base import (
    Logger,
    LoggerConfig,
    import_tracker,
    step_numbers,
    validation_numbers,
    validation_strips,
)
from segnl.training.trainer import StepReport, Trainer

TIMEOUT_S = 30
"""Bound of the waits for the server at start and end."""


class WandbConfig(LoggerConfig):
    """Settings of `wandb.init`; its environment variables, such as WANDB_API_KEY, hold too."""

    project: str = "segnl"
    entity: str | None = None
    group: str | None = None
    mode: Literal["online", "offline"] | None = None
    """Null: as WANDB_MODE says, otherwise online."""


class WandbLogger(Logger):
    """The recipe, the numbers of steps and validations, and strips of the same images at every validation."""

    Config = WandbConfig

    def __init__(self, cfg: WandbConfig, run: Path) -> None:
        super().__init__(cfg, run)
        self._wandb = import_tracker("wandb", "wandb")

    def on_start(self, trainer: Trainer) -> None:
        """Begins the tracker's run, or resumes the one of the earlier starts."""
        tracker_id = self.stored_id() or secrets.token_hex(4)
        self._tracker: Any = self._wandb.init(
            project=self.cfg.project,
            entity=self.cfg.entity,
            group=self.cfg.group,
            mode=self.cfg.mode,
            dir=str(self.run),
            id=tracker_id,
            name=self.run.name,
            config=trainer.recipe.to_dict(),
            allow_val_change=True,
            resume="allow",
            settings=self._wandb.Settings(
                console="off", silent=True, init_timeout=TIMEOUT_S, finish_timeout=TIMEOUT_S, login_timeout=TIMEOUT_S
            ),
        )
        self.store_id(tracker_id)
        log.info("wandb: %s", self._tracker.url or f"offline, in {self._tracker.settings.sync_dir}")

    def on_step(self, trainer: Trainer, report: StepReport, batch: Batch) -> None:
        """Sends the step's numbers."""
        self._tracker.log(step_numbers(report), step=report.step)

    def on_validation(self, trainer: Trainer, validation: Validation) -> None:
        """Sends the scores and the strips."""
        strips = [self._wandb.Image(panels, caption=name) for name, panels in validation_strips(validation)]
        self._tracker.log(validation_numbers(validation) | {"val/images": strips}, step=validation.step)

    def on_end(self, trainer: Trainer, result: FitResult) -> None:
        """Ends the tracker's run."""
        self._tracker.finish(exit_code=0 if result.error is None and result.stopped_by is None else 1)

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        """Ends the tracker's run as failed."""
        self._tracker.finish(exit_code=1)


LOGGER = WandbLogger
