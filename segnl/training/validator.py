"""The hook that validates a training, keeps its best checkpoint and ends it early."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.core import IGNORE
from segnl.core.log import log
from segnl.core.run_log import read_log
from segnl.data.base import SegmentationData
from segnl.data.sample import Batch, Sample
from segnl.evaluation.evaluate import evaluate
from segnl.evaluation.inference import ClassScores, LogitScores, MeanProbabilities
from segnl.evaluation.predictor import Predictor
from segnl.metrics.scalars.find import metric_values
from segnl.ops.pixel_loss import pixel_cross_entropy
from segnl.runs.checkpoint import checkpoint_path, keep_as_best, keep_unscored_best
from segnl.runs.recipe import TrainConfig
from segnl.runs.validations import Patience, logged_validations
from segnl.training.hooks import Hook, Validation
from segnl.training.saver import CheckpointSaver, is_due
from segnl.training.trainer import StepReport, Trainer

AUTO_VALIDATIONS = 5


class Validator(Hook):
    """Scores the network on the validation split, as often as train.eval_every says."""

    def __init__(self, data: SegmentationData, saver: CheckpointSaver, trainer: Trainer) -> None:
        """Reads the scores of earlier starts from the run's log."""
        self.data, self.saver = data, saver
        self.train, step, group = trainer.recipe.train, trainer.step_number, trainer.group
        self.patience = group.run_on_rank0(lambda: Patience.at(step, trainer.folder, self.train))
        self.is_validation_missing = group.run_on_rank0(lambda: is_validation_missing(trainer.folder, step, self.train))
        """Whether a kill left out the validation of the step that the training resumes from."""
        made_up_for = {step} if self.is_validation_missing else set()
        group.run_on_rank0(
            lambda: keep_unscored_best(trainer.folder, made_up_for | logged_validations(trainer.folder).keys())
        )

    def on_start(self, trainer: Trainer) -> None:
        """Makes up for a missing validation."""
        if self.is_validation_missing:
            self.validate(trainer)

    def on_step(self, trainer: Trainer, report: StepReport, batch: Batch) -> None:
        """Validates where it is due."""
        if is_validation_due(report.step, self.train):
            self.validate(trainer)

    def validate(self, trainer: Trainer) -> None:
        """Scores the network, unless a stop signal interrupts that: the next start makes up for it."""
        self.saver.save(trainer)  # a kill in a long validation must not cost what was learned before it
        model, group = trainer.evaluated_model, trainer.group
        if group.world_size > 1:  # running statistics may differ between ranks: score what rank 0 has and saves
            model.load_state_dict(group.broadcast(model.state_dict()))
        predictor = Predictor(model, trainer.recipe, self.data.table, trainer.device)
        sums = torch.zeros(2, dtype=torch.float64, device=trainer.device)  # of the loss, of labelled pixels

        def add_loss(sample: Sample, scores: ClassScores) -> None:
            label = torch.from_numpy(sample.label)[None].to(trainer.device)  # 1 H W
            sums.add_(torch.stack([cross_entropy_sum(scores, label).double(), (label != IGNORE).sum()]))

        confusion = evaluate(
            predictor, self.data, on_scores=add_loss, should_stop=lambda: bool(trainer.stop), group=group
        ).confusion
        if any(group.all_gather_object(bool(trainer.stop))):
            return
        loss_sum, num_pixels = group.all_reduce_sum(sums.cpu()).tolist()
        miou, loss = confusion.miou(), loss_sum / num_pixels if num_pixels else math.nan
        is_best = self.patience.note(miou, loss)
        if is_best:
            group.run_on_rank0(lambda: keep_as_best(checkpoint_path(trainer.folder, trainer.step_number)))
        metrics = metric_values(trainer.recipe.eval.metrics, confusion)
        validation = Validation(trainer.step_number, confusion, loss, is_best, predictor, self.data, metrics)
        trainer.call_hooks("on_validation", validation)
        if self.patience.is_out:
            trainer.is_finished = True
            if group.is_rank0:
                text = "%s: ends at step %d, train.patience: %d validations were not better than the best"
                log.info(text, trainer.folder, trainer.step_number, self.patience.num_since_best)


def is_validation_due(step: int, train: TrainConfig) -> bool:
    """Returns whether a validation follows step `step`, counted from 1."""
    if train.eval_every == "auto":
        return step * AUTO_VALIDATIONS // train.num_steps > (step - 1) * AUTO_VALIDATIONS // train.num_steps
    return is_due(step, train.eval_every)


def is_validation_missing(run: Path, step: int, train: TrainConfig) -> bool:
    """Returns whether a kill or a signal left out the validation that follows step `step` of a run."""
    events = {line.get("event") for line in read_log(run / "log.jsonl") if line.get("step") == step}
    return step > 0 and is_validation_due(step, train) and events.isdisjoint(("eval", "end"))


def cross_entropy_sum(scores: ClassScores, label: Tensor) -> Tensor:
    """Returns the cross-entropy of an image, summed over its labelled pixels. label: u8 `1 H W`, 255 ignored."""
    if isinstance(scores, LogitScores):
        return pixel_cross_entropy(scores.logits, label, align_corners=scores.align_corners, normalize_by=1.0)
    total = torch.zeros((), device=label.device)
    for first, band in scores.bands():  # 1 k rows W
        smallest = torch.finfo(band.dtype).tiny
        log_p = band.clamp(min=smallest).log() if isinstance(scores, MeanProbabilities) else band.log_softmax(dim=1)
        labels = label[:, first : first + band.shape[2]].long()
        total += F.nll_loss(log_p, labels, ignore_index=IGNORE, reduction="sum")
    return total
