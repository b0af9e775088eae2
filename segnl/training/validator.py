"""The hook that validates a training run and keeps its best checkpoint."""

import math
from pathlib import Path

from segnl.core.run_log import read_log
from segnl.data.base import SegmentationData
from segnl.data.sample import Batch
from segnl.evaluation.evaluate import evaluate
from segnl.evaluation.predictor import Predictor
from segnl.runs.checkpoint import checkpoint_path, keep_as_best
from segnl.training.hooks import Hook, Validation
from segnl.training.saver import CheckpointSaver, is_due
from segnl.training.trainer import StepReport, Trainer


class Validator(Hook):
    """Scores the network on the validation split every train.eval_every steps."""

    def __init__(self, run: Path, data: SegmentationData, saver: CheckpointSaver, trainer: Trainer) -> None:
        """Reads the scores of earlier starts from the log in `run`."""
        self.run, self.data, self.saver = run, data, saver
        self.every, step = trainer.recipe.train.eval_every, trainer.step_number
        scores = trainer.group.run_on_rank0(lambda: _logged_scores(run, up_to_step=step))
        self.best_miou = max((miou for miou in scores.values() if miou is not None), default=-math.inf)
        self.is_one_missing = step > 0 and is_due(step, self.every) and step not in scores
        """Whether a kill left out the validation of the step that the training resumes from."""

    def on_start(self, trainer: Trainer) -> None:
        """Makes up for a missing validation."""
        if self.is_one_missing:
            self.validate(trainer)

    def on_step(self, trainer: Trainer, report: StepReport, batch: Batch) -> None:
        """Validates where it is due."""
        if is_due(report.step, self.every):
            self.validate(trainer)

    def validate(self, trainer: Trainer) -> None:
        """Scores the network, unless a stop signal interrupts that: the next start makes up for it."""
        self.saver.save(trainer)  # a kill in a long validation must not cost what was learned before it
        model, group = trainer.evaluated_model, trainer.group
        if group.world_size > 1:  # running statistics may differ between ranks: score what rank 0 has and saves
            model.load_state_dict(group.broadcast(model.state_dict()))
        predictor = Predictor(model, trainer.recipe, self.data.table, trainer.device)
        confusion = evaluate(
            predictor, self.data, recipe=trainer.recipe, should_stop=lambda: bool(trainer.stop), group=group
        )
        if any(group.all_gather_object(bool(trainer.stop))):
            return
        miou = confusion.miou()
        is_best = miou > self.best_miou
        if is_best:
            self.best_miou = miou
            group.run_on_rank0(lambda: keep_as_best(checkpoint_path(self.run, trainer.step_number)))
        validation = Validation(trainer.step_number, confusion, is_best, predictor, self.data)
        trainer.call_hooks("on_validation", validation)


def _logged_scores(run: Path, *, up_to_step: int) -> dict[int, float | None]:
    lines = [line for line in read_log(run / "log.jsonl") if line.get("event") == "eval"]
    return {line["step"]: line["miou"] for line in lines if line["step"] <= up_to_step}
