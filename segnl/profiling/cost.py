"""`segnl cost`: what a recipe's network, its head or its attention alone costs on one image.

Counts come from shapes alone; bytes and time are measured in a process of their own (profiling/peak_memory.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from segnl.core.errors import ConfigError, DataError
from segnl.data.find import DATASETS
from segnl.profiling.flops import (
    count_algorithm_flops,
    count_flops,
    gflops,
    num_parameters,
    published_comparison,
    published_flops,
)
from segnl.profiling.modules import Part, inputs_of, part_of
from segnl.profiling.peak_memory import Footprint, Job, measure
from segnl.runs.build import build_model
from segnl.runs.recipe import Recipe

Size = tuple[int, int]


@dataclass(frozen=True)
class Counts:
    """What follows from shapes. shapes: of the part's inputs; comparison: CCNet's, for an attention alone."""

    params: int
    gflops: float
    gflops_algorithm: float
    shapes: tuple[tuple[int, ...], ...]
    comparison: dict[str, float]


@dataclass(frozen=True)
class Cost:
    """A part of a recipe's network on one image of `hw`; see `lines` for what each number means."""

    part: Part
    hw: Size
    num_classes: int
    counts: Counts
    footprint: Footprint

    def to_dict(self) -> dict[str, Any]:
        """The public names first, then what they belong to."""
        counts, measured = asdict(self.counts), asdict(self.footprint)
        numbers = {key: counts[key] for key in ("params", "gflops", "gflops_algorithm")}
        numbers |= {key: measured[key] for key in ("saved_mib", "peak_mib", "latency_ms")}
        about: dict[str, Any] = {"module": self.part, "input_hw": list(self.hw), "num_classes": self.num_classes}
        about |= {key: value for key, value in measured.items() if key not in numbers}
        if self.counts.comparison:
            about |= {"map": list(self.counts.shapes[0]), "published_comparison": self.counts.comparison}
        return numbers | about | {"complete": True}

    def lines(self) -> list[str]:
        """For people: a line a number, with what it is."""
        counted, measured = self.counts, self.footprint
        size = "x".join(map(str, self.hw))
        if self.part == "attention":
            algorithm = "the algorithm at the published widths (q, k c/8, v c): see below"
        else:
            algorithm = "as papers count: all pairs of positions of a non-local block"
        rows = [
            ("params", f"{counted.params:,}", "learned numbers, without the auxiliary head"),
            (
                "gflops",
                f"{counted.gflops:.2f}",
                "executed to predict an image; a multiplication with its addition is 2",
            ),
            ("gflops_algorithm", f"{counted.gflops_algorithm:.2f}", algorithm),
            ("saved_mib", f"{measured.saved_mib:.1f}", "kept from forward for backward, parameters apart"),
            ("peak_mib", f"{measured.peak_mib:.1f}", "of forward and backward, above weights, gradients and input"),
            ("latency_ms", f"{measured.latency_ms:.1f}", f"to predict; a rough figure: {measured.how}"),
        ]
        lines = [f"{self.part}, one image of {size}, {self.num_classes} classes, {measured.arithmetic}"]
        lines += [f"  {name:<17}{value:>13}   {note}" for name, value, note in rows]
        if counted.comparison:
            _, c, h, w = counted.shapes[0]
            lines.append(f"published comparison, GFLOPs on a map of {c}x{h}x{w} (q, k {max(1, c // 8)}; v {c}):")
            lines += [f"  {name:<17}{value:>13.2f}" for name, value in counted.comparison.items()]
        return lines


def cost(recipe: Recipe, *, hw: Size, part: Part = "model", num_classes: int | None = None) -> Cost:
    """Counts and measures. num_classes: the data set's own unless given.

    Raises ConfigError for a head without attention where its attention is asked for, DataError where the classes stand
    in a file that is not there, MachineError when the measurement's process fails (too little memory, say).
    """
    if min(hw) < 1 or (num_classes is not None and num_classes < 1):
        raise ConfigError(f"--input {hw[0]}x{hw[1]}, --classes {num_classes}; expected at least 1 of each")
    classes = num_classes_of(recipe) if num_classes is None else num_classes
    counts = counts_of(recipe, classes, hw, part)
    job = Job(recipe=recipe.to_dict(), num_classes=classes, part=part, shapes=counts.shapes)
    return Cost(part, hw, classes, counts, measure(job))


def num_classes_of(recipe: Recipe) -> int:
    """From the data set's table, for which its images need not be there."""
    try:
        return DATASETS.find(recipe.data.name).class_table(recipe.data).num_classes
    except DataError as err:
        raise DataError(f"{err}; or say how many there are: --classes N") from err


def counts_of(recipe: Recipe, num_classes: int, hw: Size, part: Part) -> Counts:
    """From shapes alone; a head that looks at values (which shapes have not) is really run."""
    try:
        with shapes_only():
            return _counts(recipe, num_classes, hw, part)
    except RuntimeError:
        return _counts(recipe, num_classes, hw, part)


def network_counts(recipe: Recipe, num_classes: int, hw: Size) -> tuple[int, float]:
    """Parameters and executed GFLOPs of the whole network."""
    try:
        with shapes_only():
            model = build_model(recipe, num_classes, is_new=False).eval()
            return num_parameters(model), gflops(model, hw)
    except RuntimeError:
        model = build_model(recipe, num_classes, is_new=False).eval()
        return num_parameters(model), gflops(model, hw)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Tensors made within have a shape and a dtype, and no numbers."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        yield


def _counts(recipe: Recipe, num_classes: int, hw: Size, part: Part) -> Counts:
    model = build_model(recipe, num_classes, is_new=False).eval()
    module = part_of(model, part)
    inputs = inputs_of(model, module, part, hw)
    comparison: dict[str, float] = {}
    arguments: list[Any] = [inputs] if part == "head" else list(inputs)
    executed = count_flops(module, *arguments)
    if part == "attention":
        algorithm = published_flops(module, inputs[0])
        comparison = published_comparison(inputs[0])
    else:
        algorithm = count_algorithm_flops(module, *arguments)
    shapes = tuple(tuple(each.shape) for each in inputs)
    return Counts(num_parameters(module), executed / 1e9, algorithm / 1e9, shapes, comparison)
