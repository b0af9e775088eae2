"""Training a finished run for more steps: `segnl train --extend`.

An extended recipe says all that the run has learned by, so a new training of it gives the same weights, bit for bit.
"""

from pathlib import Path

from segnl.core.config import JSONDict, validate
from segnl.core.errors import ConfigError
from segnl.runs.checkpoint import Checkpoint
from segnl.runs.recipe import Extension, Recipe, ScheduleAfter, TrainConfig
from segnl.runs.validations import Patience

ALLOWED_KEYS = frozenset({"train.max_steps", "train.patience", "train.extended"})
"""Keys that may differ between a finished run and its extension."""


def extended_recipe(recipe: Recipe, checkpoint: Checkpoint | None, schedule: ScheduleAfter | None) -> Recipe:
    """Returns `recipe` with the extensions of the checkpoint's run, and with a new one where it asks for more steps.

    schedule: the learning rate after the new extension; None where none is asked for.
    """
    if checkpoint is None or recipe.train.extended:
        return recipe
    saved = checkpoint.recipe["train"]
    entries = [*saved.get("extended", ())]
    if recipe.train.num_steps != saved["max_steps"]:
        if schedule is None:
            return recipe  # another recipe, which is refused
        entries.append({"at": checkpoint.step, "max_steps": saved["max_steps"], "schedule": schedule})
    file = str(checkpoint.path)
    extended = tuple(validate(Extension, entry, file=file, at="extended") for entry in entries)
    train = recipe.train.model_copy(update={"extended": extended})
    return recipe.model_copy(update={"train": train})


def check_extension(run: Path, recipe: Recipe, checkpoint: Checkpoint | None, schedule: ScheduleAfter) -> None:
    """Raises ConfigError when the run cannot be extended. recipe: as `extended_recipe` returned it."""
    if checkpoint is None:
        raise ConfigError(f"--extend: {run} has no checkpoint to continue from; train it first, without --extend")
    saved, steps = checkpoint.recipe["train"], recipe.train.num_steps
    if steps == saved["max_steps"]:
        last = recipe.train.extended[-1].schedule if recipe.train.extended else None
        if last != schedule:
            is_so = f"is extended to {steps} steps with its schedule {last}" if last else f"has {steps} steps"
            raise ConfigError(f"--extend {schedule}: {run} {is_so}; give more with --set train.max_steps=")
    elif not is_finished(run, checkpoint):
        raise ConfigError(
            f"--extend: {run} stopped at step {checkpoint.step} of {saved['max_steps']}; finish it first: the same, "
            "without --extend and with its own number of steps"
        )
    elif steps <= checkpoint.step:
        raise ConfigError(f"--extend: {run} has {checkpoint.step} steps; give more with --set train.max_steps=")


def is_finished(run: Path, checkpoint: Checkpoint) -> bool:
    """Returns whether the run has taken all its steps, or train.patience has ended it."""
    train: JSONDict = checkpoint.recipe["train"]
    if checkpoint.step >= train["max_steps"]:
        return True
    if train.get("patience") is None:
        return False
    present = {
        key: value for key, value in train.items() if key in TrainConfig.model_fields
    }  # not those of old recipes
    saved = validate(TrainConfig, present, file=str(checkpoint.path), at="train")
    return Patience.at(checkpoint.step, run, saved).is_out
