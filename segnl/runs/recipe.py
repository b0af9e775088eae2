"""A recipe: everything that decides a training, composed from the schemas that its parts declare beside themselves."""

import difflib
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import Field

from segnl.core.config import Config, JSONDict, load_mapping, suggest, validate
from segnl.core.errors import ConfigError
from segnl.core.precision import Precision
from segnl.data.base import DataConfig
from segnl.data.find import DATASETS
from segnl.losses.step_loss import LOSSES, LossConfig
from segnl.models.segmenter import ModelConfig, model_schema
from segnl.optim.optim import OPTIMISERS, SCHEDULES, GroupsConfig, ScheduleConfig

AnyConfig = TypeVar("AnyConfig", bound=Config)

Count = Annotated[int, Field(ge=1)]
Size = tuple[Count, Count]


class TrainConfig(Config):
    """The budget and the arithmetic of a training."""

    max_steps: Count
    batch_size: Count
    """Images a step over all ranks."""
    seed: Annotated[int, Field(ge=0)] = 0
    save_every: Count = 1000
    """Steps between checkpoints; a kill loses no more."""
    eval_every: Count | None = None
    """Steps between validations; null for none."""
    keep_every: Count | None = None
    """The checkpoint of every so many steps is made and kept for good; null: the newest two are all there is."""
    accumulate: Count = 1
    """Pieces in which a step's images pass the network, to fit into memory; the step is the same but for the norms'
    statistics and OHEM's mining, which are each piece's own."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a running average of the weights, which is evaluated in their place; null: none."""
    deterministic: bool = False
    precision: Precision = "float32"
    """fp16 scales the loss and skips steps whose gradients overflow (core/precision.py). It is meant for GPUs: a CPU
    without float16 arithmetic takes many times as long as in float32."""
    channels_last: bool = False
    """Memory layout: the same numbers but for rounding, and often faster."""
    tensorboard: bool = False
    """Whether RUN/events.* is written for TensorBoard beside log.jsonl; needs the extra `watch`."""
    compile: bool = False
    """Whether training steps run through torch.compile: the same numbers but for rounding; evaluation does not."""
    activation_checkpointing: bool = False
    """Whether the backbone's blocks are computed again in backward instead of kept: less memory, more time."""

    @pydantic.model_validator(mode="after")
    def _pieces_are_equal(self) -> "TrainConfig":
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} cannot be cut into {self.accumulate} equal pieces")
        if self.compile and self.activation_checkpointing:
            raise ValueError("compile decides by itself what to compute again; drop activation_checkpointing")
        return self


class EvalConfig(Config):
    """The protocol of a score."""

    mode: Literal["whole", "slide"] = "whole"
    window_hw: Size | None = None
    stride_hw: Size | None = None
    scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    """Image scales whose class probabilities are averaged."""
    short_sides_px: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    """Lengths of the shorter side at scale 1, averaged as scales are; null: data.short_side_px, or the image's own."""
    long_side_px: Count | None = None
    """A longer side than this at scale 1 is shortened to it, whatever that does to the shorter one."""
    size_multiple: Count = 1
    """The network's input is enlarged to a multiple of this."""
    flip: bool = False
    """ModelEMA over the flipped image too."""
    batch_size: Count = 4
    """Windows that pass the network at once in mode slide."""
    precision: Precision = "float32"

    @pydantic.model_validator(mode="after")
    def _slide_needs_a_window(self) -> "EvalConfig":
        if self.mode == "slide" and (self.window_hw is None or self.stride_hw is None):
            raise ValueError("mode slide needs window_hw and stride_hw")
        if self.window_hw and self.stride_hw and any(map(operator.gt, self.stride_hw, self.window_hw)):
            raise ValueError("stride_hw exceeds window_hw: pixels between would go unseen")
        return self


class Recipe(Config):
    """All sections; `compose` narrows those with a name to the schema of the part that it means."""

    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    optim: GroupsConfig
    schedule: ScheduleConfig
    loss: LossConfig
    eval: EvalConfig = EvalConfig()

    def to_dict(self) -> JSONDict:
        """Plain values for YAML and JSON, every default written out."""
        return self.model_dump(mode="json")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe file; every fault is one ConfigError naming file and dotted key."""
    return compose(load_mapping(path, overrides), file=str(path))


def compose(mapping: Mapping[str, Any], *, file: str) -> Recipe:
    """Checks a whole recipe against the schemas of the parts it names."""
    data_name = _name_at(mapping, "data", file)
    try:
        data = DATASETS.find(data_name).Config
    except ConfigError as err:
        raise ConfigError(f"{file}: {err}") from err
    model = model_schema(_section(mapping, "model", file), file=file)
    optimiser = _choose(OPTIMISERS, _name_at(mapping, "optim", file), "optim.name", file)
    schedule = _choose(SCHEDULES, _name_at(mapping, "schedule", file), "schedule.name", file)
    loss = _choose(LOSSES, _name_at(mapping, "loss", file), "loss.name", file)
    parts = {"model": model, "data": data, "optim": optimiser, "schedule": schedule, "loss": loss}
    fields: dict[str, Any] = {name: (part, ...) for name, part in parts.items()}
    schema = pydantic.create_model("Recipe", __base__=Recipe, __module__=__name__, **fields)
    return validate(schema, dict(mapping), file=file)


def _section(mapping: Mapping[str, Any], key: str, file: str) -> Mapping[str, Any]:
    if key not in mapping:
        near = difflib.get_close_matches(key, [str(name) for name in mapping], n=1)
        raise ConfigError(f"{file}: {key}: missing; " + (f"is '{near[0]}' a misspelling of it?" if near else "add it"))
    section = mapping[key]
    if not isinstance(section, Mapping):
        raise ConfigError(f"{file}: {key}: holds {section!r}, expected keys and values such as 'name:'")
    return section


def _name_at(mapping: Mapping[str, Any], key: str, file: str) -> str:
    name = _section(mapping, key, file).get("name")
    if not isinstance(name, str):
        raise ConfigError(
            f"{file}: {key}.name: " + ("missing; add it" if name is None else f"holds {name!r}, expected a word")
        )
    return name


def _choose(known: Mapping[str, type[AnyConfig]], name: str, dotted: str, file: str) -> type[AnyConfig]:
    if name not in known:
        raise ConfigError(f"{file}: {dotted}: holds '{name}'{suggest(name, list(known))}")
    return known[name]


# Where the data lie, how they are fetched, how often a run is saved, how it is scored and watched and how steps are
# executed do not change what it learns.
FREE_KEYS = frozenset(
    {"data.root", "data.workers", "data.worker_timeout_s"}
    | {"train.save_every", "train.eval_every", "train.keep_every", "train.compile", "train.activation_checkpointing"}
    | {"train.tensorboard"}
)


def differing_keys(one: JSONDict, other: JSONDict, *, with_eval: bool = False) -> list[str]:
    """Dotted keys on which two recipes differ, but for those that change nothing of what is learned.

    with_eval: also where they differ in how they are scored. A key that came into being after a recipe was written
    has its default there.
    """
    ours, theirs = _flat(_completed(one)), _flat(_completed(other))
    absent = object()
    return sorted(
        key
        for key in ours.keys() | theirs.keys()
        if key not in FREE_KEYS
        and (with_eval or not key.startswith("eval."))
        and ours.get(key, absent) != theirs.get(key, absent)
    )


def _completed(mapping: JSONDict) -> JSONDict:
    try:
        return compose(mapping, file="recipe").to_dict()
    except ConfigError:  # of a part that is gone, or of no recipe: it is compared as it stands
        return mapping


def _flat(mapping: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(mapping, dict) or not mapping:
        return {at: mapping}
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= _flat(value, f"{at}.{key}" if at else key)
    return flat
