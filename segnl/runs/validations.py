"""Validations of a run: the best so far, and the end by train.patience. Trainer and `--extend` ask the same."""

import math
from pathlib import Path

from segnl.core.run_log import read_log
from segnl.runs.recipe import TrainConfig


class Patience:
    """Best score of a run's validations, and how many were not better since."""

    def __init__(self, train: TrainConfig) -> None:
        self.train, self.best, self.num_since_best = train, -math.inf, 0

    @classmethod
    def at(cls, step: int, run: Path, train: TrainConfig) -> "Patience":
        """Returns that of a run at step `step`, by its log; an extension begins to count anew."""
        patience = cls(train)
        extended_at = train.extended[-1].at if train.extended else 0
        for validated_step, line in logged_validations(run).items():
            if validated_step > step:  # of an earlier start, which had come further
                continue
            patience.note(line.get("miou"), line.get("loss"))
            if validated_step <= extended_at:
                patience.num_since_best = 0
        return patience

    @property
    def is_out(self) -> bool:
        """Whether the last train.patience validations were not better than the best."""
        return self.train.patience is not None and self.num_since_best >= self.train.patience

    def note(self, miou: float | None, loss: float | None) -> bool:
        """Takes note of a validation; returns whether it is the best so far, by train.best_by."""
        score = miou if self.train.best_by == "miou" or loss is None else -loss
        is_best = score is not None and score > self.best  # not for NaN
        if is_best and score is not None:
            self.best = score
        self.num_since_best = 0 if is_best else self.num_since_best + 1
        return is_best


def logged_validations(run: Path) -> dict[int, dict[str, float | None]]:
    """Returns the log's lines of validations by step, the earliest first."""
    lines = [line for line in read_log(run / "log.jsonl") if line.get("event") == "eval"]
    return {line["step"]: line for line in lines if "step" in line}
