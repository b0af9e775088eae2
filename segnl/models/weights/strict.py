"""Strict loading under other names: every tensor is used, or named with a reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from segnl.core.errors import CheckpointError
from segnl.core.limits import require_memory
from segnl.models.weights.files import listed

WEIGHT_TYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool,
)  # fmt: skip
"""Types of weights and counters; torch cannot compute with all others."""

Network = TypeVar("Network", bound=nn.Module)


@dataclass
class ImportReport:
    """Account of every tensor of a file."""

    num_used: int = 0
    filled: list[str] = field(default_factory=list)
    """Counters (num_batches_tracked) that the file does not have; evaluation does not read them."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Unused tensors with the reason."""
    notes: list[str] = field(default_factory=list)
    """Settings that were assumed, or that concern training only."""

    def lines(self) -> list[str]:
        """Returns the report as text, one fact per line."""
        out = [f"{self.num_used} tensors used, {len(self.left_out)} left out"]
        out += [f"left out: {name}: {reason}" for name, reason in self.left_out.items()]
        if self.filled:
            out.append(f"set to 0: {len(self.filled)} counters num_batches_tracked that the file does not have")
        return out + [f"note: {note}" for note in self.notes]


def build_and_load(build: Callable[[], Network], load: Callable[[Network], object], *, where: str) -> Network:
    """Builds a network on the CPU and loads its weights.

    Builds and compares it on the device "meta" first, which takes no memory: settings in a small file may ask for any
    network. load: compares without loading there. where: the file, for messages.

    Raises CheckpointError for settings that do not go together.
    """
    try:
        layout = layout_of(build)
    except ValueError as err:
        raise CheckpointError(f"{where}: its settings describe no network ({err})") from err
    if layout is not None:
        load(layout)
    with torch.device("cpu"):
        network = build()
    load(network)
    return network


def layout_of(build: Callable[[], Network]) -> Network | None:
    """Builds a network on the device "meta", which takes no memory; returns None for a module that needs values."""
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return build()
    except (RuntimeError, TypeError):
        return None


def require_room(build: Callable[[], nn.Module]) -> None:
    """Raises ConfigError for a network whose parameters and buffers do not fit into this machine's memory."""
    if (layout := layout_of(build)) is not None:
        tensors = layout.state_dict().values()
        require_memory("the network", sum(own.numel() * own.element_size() for own in tensors))


def load_strict(
    model: nn.Module, state: Mapping[str, Tensor], source_name: Callable[[str], str], *, where: str, skip: str = "-"
) -> ImportReport:
    """Loads `state` into `model`; `source_name` maps our parameter names to those in `state`.

    skip: prefix of parameters that keep their values. A model on the device "meta" is compared, and not loaded.

    Raises CheckpointError naming tensors that are missing, unknown, of another shape or type, NaN or
    infinite.
    """
    ours = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(skip)}
    names = {source_name(name): name for name in ours}
    counters = [name for name in names if name not in state and name.endswith("num_batches_tracked")]
    missing = [name for name in names if name not in state and name not in counters]
    unknown = [name for name in state if name not in names]
    shapes, types = [], []
    for name, tensor in state.items():
        own = ours[names[name]] if name in names else tensor
        if tensor.shape != own.shape:
            shapes.append(f"{name} {tuple(tensor.shape)} instead of {tuple(own.shape)}")
        if tensor.dtype not in WEIGHT_TYPES or (own.is_floating_point() and not tensor.is_floating_point()):
            types.append(f"{name} {tensor.dtype} instead of {own.dtype}".replace("torch.", ""))
    problems = [("missing", missing), ("unknown", unknown), ("of another shape", shapes), ("of another type", types)]
    if any(tensors for _, tensors in problems):
        text = "; ".join(f"{problem}: {listed(tensors)}" for problem, tensors in problems if tensors)
        raise CheckpointError(f"{where}: the tensors do not fit the model; {text}; is the config the file's own?")
    report = ImportReport(num_used=len(state), filled=counters)
    if any(tensor.is_meta for tensor in ours.values()):
        return report
    require_finite(state, where)
    values = {names[name]: tensor for name, tensor in state.items()}
    values |= {names[name]: ours[names[name]].new_zeros(()) for name in counters}
    kept = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(skip)}
    model.load_state_dict(values | kept, strict=True)
    return report


def require_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Raises CheckpointError naming tensors that hold NaN or infinity, or a float64 that is infinite as float32."""
    wrong = [
        name
        for name, own in state.items()
        if own.dtype not in WEIGHT_TYPES or not bool(torch.isfinite(own.float()).all())
    ]
    if wrong:
        what = "NaN, infinite or of a type that weights cannot have"
        raise CheckpointError(f"{where}: {listed(wrong)} {what}; fetch the file again, or use an earlier one")


def renamed(rules: Mapping[str, str]) -> Callable[[str], str]:
    """Returns a function that replaces the longest prefix in `rules`, up to a dot or the end of a name."""
    by_length = sorted(rules.items(), key=lambda rule: -len(rule[0]))

    def rename(name: str) -> str:
        for ours, theirs in by_length:
            if name == ours or name.startswith(f"{ours}."):
                return theirs + name[len(ours) :]
        return name

    return rename
