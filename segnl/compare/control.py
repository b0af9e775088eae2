"""What two runs of a study share, shown by hashes and not only promised: initial weights and the first batches."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from segnl.compare.study import PlannedRun
from segnl.core.files import write_atomic
from segnl.datasets.loader import train_batches
from segnl.datasets.transforms import TrainTransform
from segnl.engine.build import build_data, build_model, padding_rgb
from segnl.engine.recipe import Recipe, differing_keys

FILE = "control.json"
NUM_BATCHES = 2
"""Batches are a pure function of seed and step, so that two of them already tell two pipelines apart."""


@dataclass(frozen=True)
class Fingerprint:
    """What a run began with: SHA-256 of each parameter's initial values by `path shape`, and of its first batches."""

    init: dict[str, str]
    batches: str

    def modules(self) -> dict[str, str]:
        """One short hash for each top module: backbone, head, classifier, auxiliary."""
        parts: dict[str, list[str]] = {}
        for place, value in self.init.items():
            parts.setdefault(place.split(".")[0], []).append(f"{place} {value}")
        return {name: _short(hashlib.sha256("\n".join(lines).encode()).hexdigest()) for name, lines in parts.items()}


def fingerprint_of(run: PlannedRun) -> Fingerprint:
    """Read from the run's folder where it was written before the first step, else taken now and written there."""
    file = run.folder / FILE
    if file.exists():
        tree = json.loads(file.read_text(encoding="utf-8"))
        if "recipe" in tree and not differing_keys(tree["recipe"], run.recipe.tree()):
            return Fingerprint(tree["init"], tree["batches"])
    taken = take_fingerprint(run.recipe)
    tree = {"init": taken.init, "batches": taken.batches, "recipe": run.recipe.tree()}
    write_atomic(file, json.dumps(tree, indent=1).encode())
    return taken


def take_fingerprint(recipe: Recipe) -> Fingerprint:
    """Builds the initial network and the first batches as a training would, and hashes both."""
    data = build_data(recipe, "train")
    model = build_model(recipe, data.table.num_classes, is_new=True)
    init = {
        f"{path} {'x'.join(map(str, values.shape)) or 'scalar'}": _hash(values)
        for path, values in model.state_dict().items()
    }
    return Fingerprint(init, _hash_batches(recipe))


def _hash_batches(recipe: Recipe) -> str:
    batches = train_batches(
        build_data(recipe, "train"),
        TrainTransform(recipe.data, padding_rgb(recipe.model.input), recipe.train.seed),
        seed=recipe.train.seed,
        batch_size=recipe.train.batch_size,
        first_step=0,
        max_steps=min(NUM_BATCHES, recipe.train.max_steps),
        workers=0,
        timeout_s=recipe.data.worker_timeout_s,
    )
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(_bytes(batch.image))
        digest.update(_bytes(batch.label))
        digest.update("\n".join(batch.stems).encode())
    return _short(digest.hexdigest())


def _hash(values: Tensor) -> str:
    return _short(hashlib.sha256(_bytes(values)).hexdigest())


def _bytes(values: Tensor) -> bytes:
    return np.ascontiguousarray(values.detach().cpu().numpy()).tobytes()


def _short(digest: str) -> str:
    return digest[:16]


def disagreements(prints: Mapping[str, Fingerprint], runs: Sequence[PlannedRun]) -> dict[str, str]:
    """By run name, why it cannot be compared with the first run of its seed; empty when all agree.

    Weights must agree wherever path and shape do; batches must agree entirely.
    """
    wrong: dict[str, str] = {}
    for _, same_seed in itertools.groupby(runs, key=lambda run: run.seed):
        first, *others = same_seed
        ours = prints[first.name]
        for run in others:
            theirs = prints[run.name]
            shared = ours.init.keys() & theirs.init.keys()
            differing = sorted(place for place in shared if ours.init[place] != theirs.init[place])
            if theirs.batches != ours.batches:
                wrong[run.name] = f"saw other batches than {first.name} ({theirs.batches}, not {ours.batches})"
            elif differing:
                more = f" ({len(differing)} such places)"
                wrong[run.name] = f"began with other weights than {first.name} at {differing[0]}{more}"
    return wrong


def num_shared(prints: Mapping[str, Fingerprint], runs: Sequence[PlannedRun]) -> int:
    """How many parameters and buffers all runs of the first seed have in common, by path and shape."""
    places = [set(prints[run.name].init) for run in runs if run.seed == runs[0].seed]
    return len(set.intersection(*places))


def control_tree(prints: Mapping[str, Fingerprint], wrong: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """For compare's JSON: hashes by run, of each top module's initial weights and of the first batches."""
    return {
        "init": {name: taken.modules() for name, taken in prints.items()},
        "batches": {name: taken.batches for name, taken in prints.items()},
        "refused": dict(wrong),
    }
