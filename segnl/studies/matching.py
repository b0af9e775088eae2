"""Matches the sizes of heads: solves for the width of each head so that parameters or FLOPs agree with one head's.

A head with twice the parameters may win because of them. The width is `model.head.channels`, in multiples of STEP; the
remaining difference is reported.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from segnl.core.config import JSONDict, merge
from segnl.core.errors import ConfigError
from segnl.core.log import log
from segnl.core.result_cache import ResultCache
from segnl.profiling.cost import network_counts, num_classes_of
from segnl.profiling.flops import num_parameters, on_fake_tensors
from segnl.runs.build import build_model
from segnl.runs.recipe import Recipe, compose

Measure = Literal["params", "gflops"]
STEP = 8
MAX_WIDTH = 4096
NAME = "widths"


@dataclass(frozen=True)
class Width:
    """Width of a head. deviation: of its network's parameters or FLOPs from the target's, as a fraction of it."""

    channels: int
    deviation: float
    is_target: bool = False


def matched_widths(
    mappings: Mapping[str, JSONDict], to: str, measure: Measure, *, file: str, cache: ResultCache
) -> dict[str, Width]:
    """Returns the width of each head at which the network's `measure` is nearest to that of the head `to`.

    mappings: recipes by head. cache: keeps the widths, because they take seconds to solve for.
    Raises ConfigError for a head without a width, and for one that no width brings near.
    """
    recipes = {head: compose(mapping, file=f"{file}: heads.{head}") for head, mapping in mappings.items()}
    models = {head: [recipe.to_dict()["model"], recipe.data.crop_hw] for head, recipe in recipes.items()}
    key = {"version": 1, "to": to, "measure": measure, "models": models, "classes": num_classes_of(recipes[to])}
    return cache.value(
        NAME,
        key,
        dict[str, Width],
        lambda: _solved(mappings, recipes, to, measure, file),
        is_valid=lambda widths: widths.keys() == mappings.keys(),
    )


def _solved(
    mappings: Mapping[str, JSONDict], recipes: Mapping[str, Recipe], to: str, measure: Measure, file: str
) -> dict[str, Width]:
    log.info("%s: match: solving for the widths at which the heads' %s agree", file, measure)
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
                f"{file}: match: heads.{head}: no width brings it near {to}: with {channels} channels its {measure} "
                f"still differ by {100 * deviation:+.0f} %; leave this head out, or choose another `match_to`"
            )
        widths[head] = Width(channels, deviation)
    return widths


def with_width(mapping: JSONDict, channels: int) -> JSONDict:
    """Returns the recipe with another width of its head."""
    return merge(mapping, {"model": {"head": {"channels": channels}}})


def nearest_width(of_width: Callable[[int], float], target: float) -> int:
    """Returns the multiple of STEP up to MAX_WIDTH with the value nearest to the target, the smaller one of two.

    of_width must not fall, because the search is a bisection.
    """
    multiples = range(1, MAX_WIDTH // STEP)
    reaching = 1 + bisect_left(multiples, target, key=lambda multiple: of_width(STEP * multiple))
    candidates = [STEP * multiple for multiple in (reaching - 1, reaching) if multiple >= 1]
    return min(candidates, key=lambda width: abs(of_width(width) - target))


def _measured(recipe: Recipe, num_classes: int, measure: Measure) -> float:
    if measure == "gflops":
        return network_counts(recipe, num_classes, recipe.data.crop_hw)[1]
    return float(on_fake_tensors(lambda: num_parameters(build_model(recipe, num_classes, is_new=False))))
