"""Heads made equal in size: the width of each is solved for, so that parameters or FLOPs agree with one head's.

A head that wins with twice the parameters may win by them. The width is `model.head.channels`, in steps of STEP; what
remains as a difference is said.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from segnl.core.config import JSONDict, merge
from segnl.core.errors import ConfigError
from segnl.core.files import write_atomic
from segnl.profiling.cost import network_counts, num_classes_of
from segnl.profiling.flops import num_parameters, on_fake_tensors
from segnl.runs.build import build_model
from segnl.runs.recipe import Recipe, compose

Measure = Literal["params", "gflops"]
STEP = 8
MAX_WIDTH = 4096
FILE = "matching.json"


@dataclass(frozen=True)
class Width:
    """channels: of a head.  deviation: of its network's parameters or FLOPs from the target's, as a fraction of it."""

    channels: int
    deviation: float
    is_target: bool = False


def matched_widths(
    mappings: Mapping[str, JSONDict], to: str, measure: Measure, *, file: str, kept: Path
) -> dict[str, Width]:
    """By head the width at which the whole network's `measure` comes nearest to that of the head `to`, which keeps its
    own. trees: recipes by head. kept: a folder where the answer lies once it is known, for it takes seconds.

    Raises ConfigError for a head without a width, or one that no width brings near.
    """
    belongs_to: JSONDict = json.loads(json.dumps({"to": to, "measure": measure, "step": STEP, "recipes": mappings}))
    try:
        mapping = json.loads((kept / FILE).read_text(encoding="utf-8"))
        if mapping["belongs_to"] == belongs_to:
            return {head: Width(**width) for head, width in mapping["widths"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not solved yet, or for other heads
    print(f"{file}: match: solving for the widths at which the heads' {measure} agree", flush=True)
    widths = _solved(mappings, to, measure, file)
    found = {head: asdict(each) for head, each in widths.items()}
    write_atomic(kept / FILE, json.dumps({"widths": found, "belongs_to": belongs_to}, indent=1).encode())
    return widths


def _solved(mappings: Mapping[str, JSONDict], to: str, measure: Measure, file: str) -> dict[str, Width]:
    recipes = {head: compose(mapping, file=f"{file}: heads.{head}") for head, mapping in mappings.items()}
    for head, recipe in recipes.items():
        if not isinstance(getattr(recipe.model.head, "channels", None), int):
            raise ConfigError(f"{file}: match: heads.{head}: {recipe.model.head.name} has no `channels` to solve for")
    num_classes = num_classes_of(recipes[to])
    target = _measured(recipes[to], num_classes, measure)
    widths: dict[str, Width] = {}
    for head, mapping in mappings.items():
        if head == to:
            widths[head] = Width(recipes[to].to_dict()["model"]["head"]["channels"], 0.0, is_target=True)
            continue

        def of_width(channels: int, head: str = head, mapping: JSONDict = mapping) -> float:
            wider = compose(with_width(mapping, channels), file=f"{file}: heads.{head}")
            return _measured(wider, num_classes, measure)

        channels = nearest_width(of_width, target)
        deviation = of_width(channels) / target - 1
        if abs(deviation) > 0.5:
            raise ConfigError(
                f"{file}: match: heads.{head}: no width brings it near {to}; with {channels} channels its {measure} "
                f"still differ by {100 * deviation:+.0f} %: match another head, or to another one"
            )
        widths[head] = Width(channels, deviation)
    return widths


def with_width(mapping: JSONDict, channels: int) -> JSONDict:
    """The recipe with another width of its head."""
    return merge(mapping, {"model": {"head": {"channels": channels}}})


def nearest_width(of_width: Callable[[int], float], target: float) -> int:
    """The multiple of STEP up to MAX_WIDTH whose value is nearest to the target, the smaller one of two; by bisection,
    so of_width must not fall.
    """
    low, high = 1, MAX_WIDTH // STEP
    while low < high:  # the least width that reaches the target
        middle = (low + high) // 2
        if of_width(middle * STEP) >= target:
            high = middle
        else:
            low = middle + 1
    near = [each for each in (low - 1, low) if each >= 1]
    return STEP * min(near, key=lambda each: abs(of_width(each * STEP) - target))


def _measured(recipe: Recipe, num_classes: int, measure: Measure) -> float:
    if measure == "gflops":
        return network_counts(recipe, num_classes, recipe.data.crop_hw)[1]
    return float(on_fake_tensors(lambda: num_parameters(build_model(recipe, num_classes, is_new=False))))
