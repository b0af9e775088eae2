"""What a person at the terminal sees of a training run: a progress bar or lines, and a word at start and end."""

from segnl.core.files import shell_word
from segnl.core.log import log
from segnl.core.progress import Progress
from segnl.data.sample import Batch
from segnl.models.norm import norm_note
from segnl.runs.trust import dotted_names, trust_options
from segnl.training.hooks import FitResult, Hook, Validation
from segnl.training.trainer import StepReport, Trainer


class TerminalLogger(Hook):
    """Shows progress on standard error and logs the norm in use, the validations and the end."""

    def on_start(self, trainer: Trainer) -> None:
        """Begins the progress bar."""
        train = trainer.recipe.train
        images = train.batch_size // train.accumulate
        log.info("%s", norm_note(trainer.recipe.model.norm, images=images, world=trainer.group.world_size))
        if train.extended and train.extended[-1].at == trainer.step_number:
            run, schedule = trainer.folder, train.extended[-1].schedule
            lr = trainer.recipe.learning_rate(trainer.step_number)
            log.info("%s: extended to %d steps, its schedule is %s: lr %.2g", run, train.num_steps, schedule, lr)
        self.progress = Progress(trainer.folder.name, train.num_steps, done=trainer.step_number)

    def on_step(self, trainer: Trainer, report: StepReport, batch: Batch) -> None:
        """Moves the bar by one step."""
        skipped = f", skipped: its gradients overflow at loss scale {report.loss_scale}" if report.is_skipped else ""
        self.progress.advance(
            f"loss {report.loss:.4f}, lr {report.lr:.2g}, {report.images_per_s:.1f} images/s{skipped}"
        )

    def on_validation(self, trainer: Trainer, validation: Validation) -> None:
        """Shows mIoU, loss and the values of eval.metrics."""
        best = ", the best so far" if validation.is_best else ""
        scores = f"val mIoU {validation.confusion.miou():.4f}, loss {validation.loss:.4f}"
        scores += "".join(f", {name} {value:.4f}" for name, value in validation.metrics.items())
        self.progress.say(f"step {validation.step}: {scores}{best}")

    def on_end(self, trainer: Trainer, result: FitResult) -> None:
        """Ends the bar and says what to do next."""
        self.progress.__exit__(None, None, None)
        run = trainer.folder
        if result.stopped_by is not None:
            log.info("%s: stopped after step %d; the same command resumes there", run, result.steps)
        elif result.error is None:
            options = trust_options(dotted_names(trainer.recipe.to_dict()))
            command = f"segnl eval --checkpoint {shell_word(run)}{options}"
            log.info("%s: trained %d steps; score it: %s", run, result.steps, command)

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        """Ends the bar."""
        self.progress.__exit__(None, None, None)
