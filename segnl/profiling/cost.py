"""Parameters, FLOPs, memory and latency of a recipe's network, its head or its attention block on one image.

Parameters and FLOPs follow from shapes; memory and latency are measured in a process of their own
(profiling/peak_memory.py).
"""

from dataclasses import asdict, dataclass

import torch

from segnl.core.config import JSONDict
from segnl.core.errors import ConfigError, DataError
from segnl.core.limits import require_memory
from segnl.data.find import DATASETS
from segnl.profiling.flops import (
    count_algorithm_flops,
    count_flops,
    num_parameters,
    on_fake_tensors,
    published_comparison,
    published_flops,
)
from segnl.profiling.peak_memory import ModuleName, Profile, ProfileJob, inputs_of, profile, select_module
from segnl.runs.build import build_model
from segnl.runs.recipe import Recipe


@dataclass(frozen=True)
class ShapeCounts:
    """Numbers that follow from shapes alone."""

    params: int
    gflops: float
    gflops_algorithm: float
    input_shapes: tuple[tuple[int, ...], ...]
    comparison: dict[str, float]
    """GFLOPs of the modules that CCNet's paper compares; empty unless the module is an attention block."""


@dataclass(frozen=True)
class CostReport:
    """Cost of one module of a recipe's network for one image of `hw` pixels."""

    module: ModuleName
    hw: tuple[int, int]
    num_classes: int
    counts: ShapeCounts
    profile: Profile

    def to_dict(self) -> JSONDict:
        """Returns the content of `segnl cost --json`: the public names first, then the settings."""
        counts, profile = asdict(self.counts), asdict(self.profile)
        numbers = {key: counts[key] for key in ("params", "gflops", "gflops_algorithm")}
        numbers |= {key: profile.pop(key) for key in ("saved_mib", "peak_mib", "latency_ms")}
        settings: JSONDict = {"module": self.module, "input_hw": list(self.hw), "num_classes": self.num_classes}
        settings |= profile
        if self.counts.comparison:
            settings |= {"map": list(self.counts.input_shapes[0]), "published_comparison": self.counts.comparison}
        return numbers | settings | {"complete": True}


def cost(
    recipe: Recipe, *, hw: tuple[int, int], module: ModuleName = "model", num_classes: int | None = None
) -> CostReport:
    """Counts and measures one module of the recipe's network. num_classes: by default the data set's.

    Raises ConfigError for sizes below 1, a network beyond this machine's memory, or a head without an attention block
    where one is asked for, DataError where the file with the data set's classes is missing, MachineError when the
    measuring process fails (out of memory, say).
    """
    if min(hw) < 1 or (num_classes is not None and num_classes < 1):
        raise ConfigError(f"--input {hw[0]}x{hw[1]}, --classes {num_classes}; expected at least 1 of each")
    classes = num_classes_of(recipe) if num_classes is None else num_classes
    counts = count_module(recipe, classes, hw, module)
    require_memory("the network", 4.0 * counts.params)
    job = ProfileJob(recipe.to_dict(), classes, module, counts.input_shapes)
    return CostReport(module, hw, classes, counts, profile([job])[0])


def num_classes_of(recipe: Recipe) -> int:
    """Returns the number of classes of the recipe's data set, whose images need not exist."""
    try:
        return DATASETS.find(recipe.data.name).table_of(recipe.data).num_classes
    except DataError as err:
        raise DataError(f"{err}; or say how many there are: --classes N") from err


def count_module(recipe: Recipe, num_classes: int, hw: tuple[int, int], name: ModuleName) -> ShapeCounts:
    """Counts parameters and FLOPs of one module for one image of `hw` pixels."""
    return on_fake_tensors(lambda: _count_module(recipe, num_classes, hw, name))


def _count_module(recipe: Recipe, num_classes: int, hw: tuple[int, int], name: ModuleName) -> ShapeCounts:
    model = build_model(recipe, num_classes, is_new=False).eval()
    module = select_module(model, name)
    inputs = inputs_of(model, module, name, hw)
    executed = count_flops(module, *inputs)
    is_attention = name == "attention"
    algorithm = published_flops(module, inputs[0]) if is_attention else count_algorithm_flops(module, *inputs)
    comparison = published_comparison(inputs[0]) if is_attention else {}
    shapes = tuple(tuple(values.shape) for values in inputs)
    return ShapeCounts(num_parameters(module), executed / 1e9, algorithm / 1e9, shapes, comparison)


def network_counts(recipe: Recipe, num_classes: int, hw: tuple[int, int]) -> tuple[int, float]:
    """Returns parameters and executed GFLOPs of the whole network for one image of `hw` pixels."""

    def count() -> tuple[int, float]:
        model = build_model(recipe, num_classes, is_new=False).eval()
        return num_parameters(model), count_flops(model, torch.zeros(1, model.image_channels, *hw)) / 1e9

    return on_fake_tensors(count)
