"""The recipe key `init`: a new training starts from the weights of a trained network, as far as they fit."""

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
    report = InitReport(str(checkpoint.path), checkpoint.checksum)
    num_classes = len(checkpoint.classes["names"])
    other_classes = f"{num_classes} classes in the file, {model.num_classes} here"

    def is_per_class(name: str) -> bool:
        sizes = zip(own[name].shape, saved[name].shape, strict=False)
        differing = {pair for pair in sizes if pair[0] != pair[1]}
        return own[name].dim() == saved[name].dim() and differing == {(model.num_classes, num_classes)}

    for module in MODULES:
        names = [name for name in own if name.startswith(f"{module}.")]
        saved_names = [name for name in sorted(saved) if name.startswith(f"{module}.")]
        problem = "" if saved_names else "not in the file"
        if module == "backbone":  # non-local blocks may be new
            absent = [n for n in names if n not in saved and "non_local" not in n and not n.endswith(_COUNTER)]
            problem = f"{absent[0]} is not in the file" if absent else problem
        for name in saved_names:
            if name not in own:
                problem = f"the file's has {name}"
            elif own[name].is_floating_point() and not saved[name].is_floating_point():
                problem = f"{name} is {saved[name].dtype} in the file, {own[name].dtype} here".replace("torch.", "")
            elif own[name].shape != saved[name].shape and not is_per_class(name):
                problem = f"{name} is {_shape(saved[name])} in the file, {_shape(own[name])} here"
            if problem:
                break
        if problem:
            if module == "backbone":
                raise CheckpointError(_explain(checkpoint, recipe, problem))
            report.redrawn |= {name: f"another {module}: {problem}" for name in names}
            report.left_out |= {name: f"another {module}: {problem}" for name in saved_names}
            continue
        redrawn = {}  # layers, each as a whole
        for name in names:
            if name not in saved and not name.endswith(_COUNTER):
                redrawn[_layer(name)] = "not in the file"
            elif name in saved and own[name].shape != saved[name].shape:
                redrawn[_layer(name)] = other_classes
        report.redrawn |= {name: redrawn[_layer(name)] for name in names if _layer(name) in redrawn}
        report.left_out |= {name: redrawn[_layer(name)] for name in saved_names if _layer(name) in redrawn}
        report.taken += [name for name in names if name in saved and _layer(name) not in redrawn]
    model.load_state_dict(own | {name: saved[name] for name in report.taken})
    if checkpoint.recipe["model"].get("input") != recipe.model.input.model_dump(mode="json"):
        report.notes.append("the file's network expects another model.input (mean, std or order of the channels)")
    for line in report.lines():
        log.info("%s", line)
    return report


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
