"""Loggers by name: those that a recipe lists, each guarded so that it cannot stop the training."""

from collections.abc import Mapping, Sequence
from functools import partialmethod
from pathlib import Path
from typing import Any

from segnl.core.components import Components
from segnl.core.log import log
from segnl.training.hooks import Hook
from segnl.training.loggers.base import Logger

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

    def _call(self, moment: str, *args: object) -> None:
        if not self.is_on:
            return
        try:
            getattr(self.logger, moment)(*args)
        except Exception as err:  # trackers raise anything; hours of training must not depend on them
            self.is_on = False
            reason = " ".join(f"{type(err).__name__}: {err}".split())[:300]
            log.warning("train.loggers: %s failed and is switched off; the training continues (%s)", self.name, reason)

    on_start = partialmethod(_call, "on_start")
    on_step = partialmethod(_call, "on_step")
    on_validation = partialmethod(_call, "on_validation")
    on_save = partialmethod(_call, "on_save")
    on_end = partialmethod(_call, "on_end")
    on_error = partialmethod(_call, "on_error")
