"""Loggers by name: those that a recipe lists, each guarded so that it cannot stop the training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segnl.core.components import Components
from segnl.core.log import log
from segnl.data.sample import Batch
from segnl.training.hooks import FitResult, Hook, Validation
from segnl.training.loggers.base import Logger
from segnl.training.trainer import StepReport, Trainer

LOGGERS = Components("segnl.training.loggers", "LOGGER", key="train.loggers", base=Logger)


def build_loggers(entries: Sequence[str | Mapping[str, Any]], run: Path) -> list[Hook]:
    """Returns the loggers of the key train.loggers: names, or mappings of a name and the logger's settings.

    Raises ConfigError for an unknown name or setting, MachineError for a package that is not installed.
    """
    found = LOGGERS.find_listed(entries)
    return [GuardedLogger(cfg.name, logger_class(cfg, run)) for logger_class, cfg in found]


class GuardedLogger(Hook):
    """A logger that is switched off, with a warning, when it fails: at a full disk, or without network."""

    def __init__(self, name: str, logger: Logger) -> None:
        self.name, self.logger, self.is_on = name, logger, True

    def on_start(self, trainer: Trainer) -> None:
        self._call("on_start", trainer)

    def on_step(self, trainer: Trainer, report: StepReport, batch: Batch) -> None:
        self._call("on_step", trainer, report, batch)

    def on_validation(self, trainer: Trainer, validation: Validation) -> None:
        self._call("on_validation", trainer, validation)

    def on_save(self, trainer: Trainer, path: Path) -> None:
        self._call("on_save", trainer, path)

    def on_end(self, trainer: Trainer, result: FitResult) -> None:
        self._call("on_end", trainer, result)

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        self._call("on_error", trainer, error)

    def _call(self, moment: str, *args: object) -> None:
        if not self.is_on:
            return
        try:
            getattr(self.logger, moment)(*args)
        except Exception as err:  # trackers raise anything; hours of training must not depend on them
            self.is_on = False
            reason = " ".join(f"{type(err).__name__}: {err}".split())[:300]
            log.warning("train.loggers: %s failed and is switched off; the training continues (%s)", self.name, reason)
