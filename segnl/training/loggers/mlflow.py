"""MLflow (the extra `mlflow`): by default mlflow.db in the working directory, which `mlflow ui` shows."""

import os
import re
import time
from pathlib import Path
from typing import Any

from segnl.core.log import log
from segnl.data.sample import Batch
from segnl.runs.recipe import flatten
from segnl.training.hooks import FitResult, Validation
from segnl.training.loggers.base import Logger, LoggerConfig, import_tracker, step_numbers, validation_numbers
from segnl.training.trainer import StepReport, Trainer

SEND_EVERY_S = 5.0
PER_REQUEST = 1000
"""Most numbers, and ten times the most parameters, that MLflow's interface takes at once."""


class MLflowConfig(LoggerConfig):
    """Settings of the tracking server and the experiment."""

    tracking_uri: str | None = None
    """Such as http://HOST:5000 or sqlite:///runs.db; null: MLFLOW_TRACKING_URI, or MLflow's own default."""
    experiment: str = "segnl"


class MLflowLogger(Logger):
    """The recipe as parameters, and the numbers of steps and validations."""

    Config = MLflowConfig

    def __init__(self, cfg: MLflowConfig, run: Path) -> None:
        super().__init__(cfg, run)
        self._mlflow = import_tracker("mlflow", "mlflow")
        self._numbers: list[Any] = []
        self._sent_at = time.monotonic()

    def on_start(self, trainer: Trainer) -> None:
        """Begins the tracker's run, or resumes the one of the earlier starts."""
        # Its own defaults, seven tries of two minutes each, would hold the training up where the server is gone.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        self._client = self._mlflow.MlflowClient(tracking_uri=self.cfg.tracking_uri)
        tracker_id = self.stored_id()
        if tracker_id is not None and self._exists(tracker_id):
            self._client.update_run(tracker_id, status="RUNNING")
        else:
            tracker_id = self._create(trainer)
            self.store_id(tracker_id)
        self._id = tracker_id
        log.info("mlflow: run %s of experiment %s in %s", tracker_id, self.cfg.experiment, self._client.tracking_uri)

    def on_step(self, trainer: Trainer, report: StepReport, batch: Batch) -> None:
        """Keeps the step's numbers, and sends those of several steps together."""
        self._keep(step_numbers(report), report.step)
        if time.monotonic() - self._sent_at > SEND_EVERY_S:
            self._send()

    def on_validation(self, trainer: Trainer, validation: Validation) -> None:
        """Sends the scores."""
        self._keep(validation_numbers(validation), validation.step)
        self._send()

    def on_save(self, trainer: Trainer, path: Path) -> None:
        """Sends the numbers up to the checkpoint, from which a killed run resumes."""
        self._send()

    def on_end(self, trainer: Trainer, result: FitResult) -> None:
        """Sends the last numbers and ends the tracker's run."""
        self._send()
        is_complete = result.error is None and result.stopped_by is None
        self._client.set_terminated(self._id, "FINISHED" if is_complete else "KILLED")

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        """Sends the last numbers and ends the tracker's run as failed."""
        self._send()
        self._client.set_terminated(self._id, "FAILED")

    def _exists(self, tracker_id: str) -> bool:
        try:
            self._client.get_run(tracker_id)
        except self._mlflow.exceptions.MlflowException as err:
            if err.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def _create(self, trainer: Trainer) -> str:
        experiment = self._client.get_experiment_by_name(self.cfg.experiment)
        number = self._client.create_experiment(self.cfg.experiment) if experiment is None else experiment.experiment_id
        tracker_id = str(self._client.create_run(number, run_name=self.run.name).info.run_id)
        flat = flatten(trainer.recipe.to_dict())
        params = [self._mlflow.entities.Param(key, str(value)[:500]) for key, value in flat.items()]
        for i in range(0, len(params), PER_REQUEST // 10):
            self._client.log_batch(tracker_id, params=params[i : i + PER_REQUEST // 10])
        return tracker_id

    def _keep(self, numbers: dict[str, float], step: int) -> None:
        now_ms = int(time.time() * 1000)
        for name, value in numbers.items():
            allowed = re.sub(r"[^\w\-. /:]", "_", name)
            self._numbers.append(self._mlflow.entities.Metric(allowed, value, now_ms, step))

    def _send(self) -> None:
        self._sent_at = time.monotonic()
        for i in range(0, len(self._numbers), PER_REQUEST):
            self._client.log_batch(self._id, metrics=self._numbers[i : i + PER_REQUEST])
        self._numbers = []


LOGGER = MLflowLogger
