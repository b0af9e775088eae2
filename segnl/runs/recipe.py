"""Recipes: everything that decides a training run, composed from the settings that each component declares."""

import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from segnl.core.config import (
    MAX_COUNT,
    Config,
    Count,
    JSONDict,
    Seed,
    SidePx,
    SmallCount,
    load_mapping,
    override,
    validate,
)
from segnl.core.errors import ConfigError
from segnl.core.precision import Precision
from segnl.data.base import DataConfig
from segnl.data.find import DATASETS
from segnl.losses.base import LossConfig
from segnl.losses.find import LOSSES
from segnl.metrics.scalars.find import METRICS
from segnl.models.segmenter import ModelConfig
from segnl.optim.find import OPTIMISERS, SCHEDULES
from segnl.optim.optimisers.base import OptimiserConfig
from segnl.optim.schedules.base import ScheduleConfig
from segnl.runs.trust import untrusted_modules

Size = tuple[SidePx, SidePx]


ScheduleAfter = Literal["continued", "restarted"]


class Extension(Config):
    """End of a training that was extended (`segnl train --extend`).

    continued: the learning rate is that of a training of all steps. restarted: the schedule begins anew, warm-up
    included, and lasts until the new end.
    """

    at: Count
    """Step after which the extension began."""
    max_steps: Count
    """Length that was planned until then; more than `at` where train.patience had ended the run."""
    schedule: ScheduleAfter


class FeaturesConfig(Config):
    """File that keeps the maps of a frozen backbone for all `data.views`, for all runs with these maps (docs/arena.md).

    float32: training gives the same numbers as without the file, to the bit. The others round the maps and take half.
    """

    dtype: Literal["float32", "float16", "bf16"] = "float16"
    max_gib: Annotated[float, Field(gt=0, le=65_536)] = 8.0
    """Size that the files of one study may have; it is computed and compared before the first map."""


class TrainConfig(Config):
    """Training settings."""

    max_steps: Count | None = None
    """Length of the training; either this or epochs."""
    epochs: Count | None = None
    """Length in passes over the training images; `Recipe.with_steps` turns it into max_steps."""
    extended: tuple[Extension, ...] = ()
    """Ends from which the run was extended; `segnl train --extend` writes it."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    """Images per step over all ranks."""
    seed: Seed = 0
    save_every: Count = 1000
    """Steps between checkpoints; a kill loses at most these."""
    eval_every: Count | Literal["auto"] | None = "auto"
    """Steps between validations; auto: five in a run, the last at its end, where there is a split val; null: none."""
    best_by: Literal["miou", "loss"] = "miou"
    """Whether the validation with the highest mIoU or with the lowest loss is the best, whose checkpoint is kept."""
    patience: Count | None = None
    """Ends the training after this many validations in a row that were not better than the best; null: never."""
    keep_every: Count | None = None
    """Steps between checkpoints that are kept for good; null: only the newest two are kept."""
    accumulate: Annotated[int, Field(ge=1, le=65_536)] = 1
    """Number of micro-batches in which a step's images pass the network, to fit into memory. The step stays the same
    except for the norms' statistics and OHEM's mining, which see one micro-batch at a time."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the exponential moving average (EMA) of the weights, which is evaluated in their place; null: none."""
    deterministic: bool = False
    precision: Precision = "float32"
    """fp16 scales the loss and skips steps whose gradients overflow (core/precision.py). It is meant for GPUs: a CPU
    without float16 arithmetic takes many times as long as in float32."""
    channels_last: bool = False
    """Memory layout: the same numbers up to rounding, and often faster."""
    loggers: tuple[str | dict[str, Any], ...] = ()
    """Trackers beside log.jsonl: tensorboard, wandb, mlflow or a dotted name, each with settings where it is a mapping
    (docs/training.md)."""
    pictures: bool = True
    """Whether `segnl train` evaluates the finished run and draws RUN/report.html and RUN/pictures/."""
    features: FeaturesConfig | None = None
    """Where a frozen backbone's maps of all `data.views` are computed once and kept; null: in every step again."""
    compile: bool = False
    """Whether training steps run through torch.compile: the same numbers up to rounding. Evaluation does not."""
    activation_checkpointing: bool = False
    """Whether backward computes the backbone's blocks again instead of keeping them: less memory, more time."""

    @property
    def num_steps(self) -> int:
        """Steps of the whole training. Raises ConfigError for one in epochs, whose data set is not known here."""
        if self.max_steps is None:
            raise ConfigError("train.epochs: the number of steps depends on the data set; give train.max_steps here")
        return self.max_steps

    def schedule_span(self, step: int) -> tuple[int, int]:
        """Returns first step and length of the schedule that step `step`, counted from 0, belongs to."""
        first = 0
        for extension in self.extended:
            if step < extension.at:
                return first, extension.max_steps - first
            if extension.schedule == "restarted":
                first = extension.at
        return first, self.num_steps - first

    @pydantic.model_validator(mode="after")
    def _check_keys_together(self) -> "TrainConfig":
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give either max_steps or epochs, and leave the other out or null")
        ends = [*(extension.at for extension in self.extended), self.max_steps or 0]
        if self.extended and sorted(set(ends)) != ends:
            raise ValueError("extended: its ends must be in order and below max_steps")
        if self.patience is not None and self.eval_every is None:
            raise ValueError("patience counts validations; set eval_every to auto or a number of steps")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} cannot be split into {self.accumulate} equal micro-batches")
        if self.compile and self.activation_checkpointing:
            raise ValueError("compile decides by itself what to compute again; drop activation_checkpointing")
        return self


class EvalConfig(Config):
    """Inference settings of a score."""

    mode: Literal["whole", "slide"] = "whole"
    window_hw: Size | None = None
    stride_hw: Size | None = None
    scales: Annotated[tuple[Annotated[float, Field(gt=0, le=16)], ...], Field(min_length=1, max_length=64)] = (1.0,)
    """Image scales whose class probabilities are averaged."""
    short_sides_px: Annotated[tuple[SidePx, ...], Field(min_length=1, max_length=64)] | None = None
    """Lengths of the shorter side at scale 1, averaged as scales are; null: data.short_side_px, or the image's own."""
    long_side_px: SidePx | None = None
    """Longest side at scale 1; a longer one is reduced to it, and the shorter side with it."""
    size_multiple: SmallCount = 1
    """Height and width of the network's input are enlarged to multiples of this."""
    flip: bool = False
    """Averages the class probabilities of the image and of its horizontally flipped copy."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 4
    """Number of windows that pass the network at once in mode slide."""
    precision: Precision = "float32"
    metrics: tuple[str | dict[str, Any], ...] = ()
    """Scores beside mIoU: mean_f1, cohen_kappa or a dotted name, each with settings where it is a mapping."""

    @pydantic.field_validator("metrics")
    @classmethod
    def _has_known_metrics(cls, entries: Sequence[str | dict[str, Any]]) -> Sequence[str | dict[str, Any]]:
        METRICS.find_listed(entries)
        return entries

    @pydantic.model_validator(mode="after")
    def _slide_needs_a_window(self) -> "EvalConfig":
        if self.mode == "slide" and (self.window_hw is None or self.stride_hw is None):
            raise ValueError("mode slide needs window_hw and stride_hw")
        if self.window_hw and self.stride_hw and any(map(operator.gt, self.stride_hw, self.window_hw)):
            raise ValueError("stride_hw exceeds window_hw: pixels between would go unseen")
        return self


class Recipe(Config):
    """All sections of a recipe; those that name a component hold the settings of that component."""

    init: Annotated[str, Field(min_length=1)] | None = None
    """A run's folder or a checkpoint file; the training starts from its weights, as far as they fit, instead of random
    ones and model.backbone.weights (docs/training.md)."""
    model: ModelConfig
    data: Annotated[DataConfig, DATASETS]
    train: TrainConfig
    optim: Annotated[OptimiserConfig, OPTIMISERS]
    schedule: Annotated[ScheduleConfig, SCHEDULES]
    loss: Annotated[LossConfig, LOSSES]
    eval: EvalConfig = EvalConfig()

    @pydantic.model_validator(mode="after")
    def _features_of_a_frozen_backbone(self) -> Self:
        if self.train.features is not None and not self.has_fixed_features:
            raise ValueError(
                "train.features: needs crops and a backbone that stay the same; set data.views to a number such as 8 "
                "and model.backbone.frozen to true, and leave data.frames at 1"
            )
        return self

    @property
    def has_fixed_features(self) -> bool:
        """Whether each image, which is a single frame, has a fixed number of crops, with maps of a frozen backbone."""
        return self.data.views is not None and self.model.backbone.frozen is True and self.data.frames == 1

    def to_dict(self) -> JSONDict:
        """Returns plain values for YAML and JSON, with every default written out."""
        return self.model_dump(mode="json")

    def learning_rate(self, step: int) -> float:
        """Returns the base learning rate of step 0, 1, ... of the training."""
        first, length = self.train.schedule_span(step)
        return self.schedule.learning_rate(step - first, max_steps=length, lr=self.optim.lr)

    def with_steps(self, num_images: int) -> Self:
        """Returns the recipe with max_steps in place of epochs: an epoch shows each of `num_images` images once."""
        if self.train.epochs is None:
            return self
        steps = math.ceil(self.train.epochs * num_images / self.train.batch_size)
        if steps > MAX_COUNT:
            raise ConfigError(f"train.epochs: {self.train.epochs} are {steps:,} steps; expected at most {MAX_COUNT:,}")
        train = self.train.model_copy(update={"max_steps": steps, "epochs": None})
        return self.model_copy(update={"train": train})


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe, a file or the name of a shipped one, and applies `a.b=c` overrides.

    Raises ConfigError naming the file and the dotted key.
    """
    return compose_overridden(load_mapping(path), overrides, file=str(path))


def compose_overridden(mapping: JSONDict, overrides: Sequence[str], *, file: str) -> Recipe:
    """Applies `a.b=c` overrides to a recipe and validates it. Raises ConfigError naming `file` and the dotted key."""
    text_keys: set[str] = set()
    while True:
        try:
            return compose(override(mapping, overrides, text_keys=text_keys), file)
        except ConfigError as err:  # data.root=2024 is a path, though YAML reads a number
            given = {text.partition("=")[0].strip() for text in overrides}
            if err.text_key not in given - text_keys:
                raise
            text_keys.add(err.text_key)


def compose(mapping: Mapping[str, Any], file: str) -> Recipe:
    """Validates a whole recipe; file: for messages."""
    mapping = _with_present_keys(mapping)
    return validate(Recipe, mapping, file=file)


def _with_present_keys(mapping: Mapping[str, Any]) -> JSONDict:
    """Reads `train.tensorboard: true`, a key of earlier recipes, as `train.loggers: [tensorboard]`."""
    train = mapping.get("train")
    if not isinstance(train, Mapping) or not isinstance(train.get("tensorboard"), bool):
        return dict(mapping)
    others = {key: value for key, value in train.items() if key != "tensorboard"}
    loggers = others.get("loggers") or []
    if train["tensorboard"] and isinstance(loggers, list | tuple):
        others["loggers"] = [*loggers, "tensorboard"]
    return dict(mapping) | {"train": others}


# These change nothing of what a run learns: where the data lie and how they are fetched, how often a run is saved and
# scored, what it logs, and how its steps are executed. data.group does where it says which frames are neighbours.
NON_TRAINING_KEYS = frozenset(
    {"data.root", "data.workers", "data.worker_timeout_s", "data.group", "data.cache", "data.cache_limit_gb"}
    | {"train.save_every", "train.eval_every", "train.keep_every", "train.compile", "train.activation_checkpointing"}
    | {"train.loggers", "train.pictures", "train.features.max_gib"}
)


def differing_keys(recipe: JSONDict, other: JSONDict, *, with_eval: bool = False) -> list[str]:
    """Returns the dotted keys on which two recipes differ, except those that change nothing of what is learned.

    with_eval: includes the keys of how they are scored. A key that a recipe was written without, because it is newer,
    has its default there.
    """
    mappings = [_with_defaults(mapping) for mapping in (recipe, other)]
    keys = {key for mapping in mappings for key in deciding_keys(mapping, with_eval=with_eval)}
    flat, other_flat = map(flatten, mappings)
    absent = object()
    return sorted(key for key in keys if flat.get(key, absent) != other_flat.get(key, absent))


def deciding_keys(recipe: JSONDict, *, with_eval: bool = False) -> JSONDict:
    """Returns the dotted keys that decide what is learned, with their values; with_eval: also how it is scored."""
    flat = flatten(recipe)
    ignored = NON_TRAINING_KEYS if flat.get("data.frames", 1) == 1 else NON_TRAINING_KEYS - {"data.group"}
    return {
        key: value for key, value in flat.items() if key not in ignored and (with_eval or not key.startswith("eval."))
    }


def _with_defaults(mapping: JSONDict) -> JSONDict:
    if untrusted_modules(mapping):  # a checkpoint's recipe runs no code here
        return mapping
    try:
        return compose(mapping, "recipe").to_dict()
    except ConfigError:  # its component no longer exists, or it is no recipe: compared as it stands
        return mapping


def flatten(mapping: Any, at: str = "") -> dict[str, Any]:
    """Returns the values of a nested dict by their dotted keys below `at`."""
    if not isinstance(mapping, dict) or not mapping:
        return {at: mapping}
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= flatten(value, f"{at}.{key}" if at else key)
    return flat
