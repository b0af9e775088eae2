"""The recipe key `init`: a new training starts from the weights of a trained network, as far as they fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from segnl.core.errors import CheckpointError
from segnl.core.log import log
from segnl.models.segmenter import Segmenter
from segnl.models.weights.files import listed
from segnl.models.weights.strict import require_finite
from segnl.runs.checkpoint import Checkpoint, open_checkpoint
from segnl.runs.recipe import Recipe, flatten

_COUNTER = "num_batches_tracked"
MODULES = ("backbone", "head", "classifier", "auxiliary")


@dataclass
class InitReport:
    """Account of every tensor of the network and of the file."""

    file: str
    checksum: str
    """SHA-256 of the file, as in its metadata."""
    taken: list[str] = field(default_factory=list)
    redrawn: dict[str, str] = field(default_factory=dict)
    """Tensors of the network that keep their random values, with the reason."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Tensors of the file that have no place, with the reason."""
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Returns the report as text: the numbers, then a line for each reason."""
        counts = f"{len(self.taken)} tensors taken, {len(self.redrawn)} redrawn, {len(self.left_out)} left out"
        out = [f"init: {self.file}: {counts}"]
        for title, tensors in (("redrawn", self.redrawn), ("left out", self.left_out)):
            for reason in dict.fromkeys(tensors.values()):
                names = [name for name, its_reason in tensors.items() if its_reason == reason]
                out.append(f"init: {title} ({reason}): {listed(names)}")
        return out + [f"init: note: {note}" for note in self.notes]


def load_init(model: Segmenter, recipe: Recipe, run_or_file: Path) -> InitReport:
    """Copies the weights of a run or a checkpoint file (its EMA where it has one) into a newly drawn `model`.

    The backbone must fit. The head, the classifier and the auxiliary head are taken where they fit, each as a whole;
    with another number of classes, only the layers whose shape depends on it keep their random values.

    Raises CheckpointError when the file cannot be read, or its backbone is another.
    """
    checkpoint = open_checkpoint(run_or_file)
    saved, own = checkpoint.ema or checkpoint.model, model.state_dict()
    require_finite(saved, f"init: {checkpoint.path}")
    match = _Match(own, saved, model.num_classes, len(checkpoint.classes["names"]))
    report = InitReport(str(checkpoint.path), checkpoint.checksum)
    for module in MODULES:
        problem = match.problem(module)
        if problem and module == "backbone":
            raise CheckpointError(_explain(checkpoint, recipe, problem))
        names, saved_names = match.names(module)
        reasons = match.redrawn_layers(names)
        if problem:
            reasons = {_layer(name): f"another {module}: {problem}" for name in (*names, *saved_names)}
        report.redrawn |= {name: reasons[_layer(name)] for name in names if _layer(name) in reasons}
        report.left_out |= {name: reasons[_layer(name)] for name in saved_names if _layer(name) in reasons}
        report.taken += [name for name in names if name in saved and _layer(name) not in reasons]
    model.load_state_dict(own | {name: saved[name] for name in report.taken})
    if checkpoint.recipe["model"].get("input") != recipe.model.input.model_dump(mode="json"):
        report.notes.append("the file's network expects another model.input (mean, std or order of the channels)")
    for line in report.lines():
        log.info("%s", line)
    return report


@dataclass(frozen=True)
class _Match:
    """Comparison of a network's tensors with those of a file, which has another number of classes perhaps."""

    own: Mapping[str, Tensor]
    saved: Mapping[str, Tensor]
    num_classes: int
    num_saved_classes: int

    def names(self, module: str) -> tuple[list[str], list[str]]:
        """Returns the names of a module's tensors in the network and in the file."""
        prefix = f"{module}."
        return [n for n in self.own if n.startswith(prefix)], [n for n in sorted(self.saved) if n.startswith(prefix)]

    def problem(self, module: str) -> str:
        """Returns the first reason why a module of the file is another one; "" where it fits."""
        names, saved_names = self.names(module)
        absent: list[str] = []
        if module == "backbone":  # non-local blocks may be new
            absent = [n for n in names if n not in self.saved and "non_local" not in n and not n.endswith(_COUNTER)]
        if absent or not saved_names:
            return f"{absent[0]} is not in the file" if absent else "not in the file"
        return next(filter(None, map(self._problem_of_tensor, saved_names)), "")

    def _problem_of_tensor(self, name: str) -> str:
        if name not in self.own:
            return f"the file's has {name}"
        own, saved = self.own[name], self.saved[name]
        if own.is_floating_point() and not saved.is_floating_point():
            return f"{name} is {saved.dtype} in the file, {own.dtype} here".replace("torch.", "")
        if own.shape != saved.shape and not self._is_per_class(own, saved):
            return f"{name} is {_shape(saved)} in the file, {_shape(own)} here"
        return ""

    def _is_per_class(self, own: Tensor, saved: Tensor) -> bool:
        differing = {pair for pair in zip(own.shape, saved.shape, strict=False) if pair[0] != pair[1]}
        return own.dim() == saved.dim() and differing == {(self.num_classes, self.num_saved_classes)}

    def redrawn_layers(self, names: Sequence[str]) -> dict[str, str]:
        """Returns the layers that keep their random values, each as a whole, with the reason."""
        reasons = {}
        for name in names:
            if name not in self.saved and not name.endswith(_COUNTER):
                reasons[_layer(name)] = "not in the file"
            elif name in self.saved and self.own[name].shape != self.saved[name].shape:
                reasons[_layer(name)] = f"{self.num_saved_classes} classes in the file, {self.num_classes} here"
        return reasons


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _explain(checkpoint: Checkpoint, recipe: Recipe, problem: str) -> str:
    """Returns the message about a backbone that does not fit, with the settings or the tensor of both sides."""
    theirs, own = (flatten(mapping["model"]["backbone"]) for mapping in (checkpoint.recipe, recipe.to_dict()))
    keys = [key for key in own if key in theirs and own[key] != theirs[key] and key not in ("weights", "frozen")]
    sides = [f"model.backbone.{key} is {theirs[key]!r} there, {own[key]!r} here" for key in keys]
    return f"init: {checkpoint.path}: nothing fits, its backbone is another one: {'; '.join(sides) or problem}"
