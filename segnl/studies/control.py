"""What two runs of a study share, shown by hashes and not only promised: initial weights and the first batches."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from segnl.core.files import write_atomic
from segnl.core.run_log import read_log
from segnl.data.loader import train_batches
from segnl.data.sample import Batch
from segnl.data.transforms import TrainTransform
from segnl.runs.build import build_data, build_model, padding_rgb
from segnl.runs.recipe import Recipe, differing_keys
from segnl.studies.study import PlannedRun
from segnl.training.run_hashes import batch_hash, bytes_of, initial_hashes, module_hashes, short

FILE = "control.json"
NUM_BATCHES = 2
"""Batches are a pure function of seed and step, so that two of them already tell two pipelines apart."""


@dataclass(frozen=True)
class Fingerprint:
    """What a run began with: SHA-256 of each parameter's initial values by `path shape`, and of its first batches."""

    init: dict[str, str]
    batches: str
    first: tuple[str, ...] = ()
    """Of each of those batches the hash that a training writes into its log; empty where that was not kept yet."""

    def modules(self) -> dict[str, str]:
        """One short hash for each top module: backbone, head, classifier, auxiliary."""
        return module_hashes(self.init)


@dataclass(frozen=True)
class Witness:
    """What a run's log says that it began with and saw. batches: by step, a hash of what it was shown; empty where
    the log is of a version that kept none, or of several ranks. init: by top module; None likewise.
    """

    batches: dict[int, str]
    init: dict[str, str] | None

    @property
    def seen(self) -> str | None:
        """One hash of all batches, in their order."""
        text = "\n".join(f"{step} {value}" for step, value in sorted(self.batches.items()))
        return short(hashlib.sha256(text.encode()).hexdigest()) if self.batches else None


def witness_of(run: PlannedRun) -> Witness:
    """Read from the run's log."""
    lines = read_log(run.folder / "log.jsonl")
    starts = [line for line in lines if line.get("event") == "start"]
    is_shared = any(line.get("ranks", 1) > 1 for line in starts)  # rank 0 sees, and writes down, its share alone
    batches = {} if is_shared else {line["step"]: line["batch"] for line in lines if "batch" in line}
    return Witness(batches, next((line["init"] for line in starts if "init" in line), None))


def fingerprint_of(run: PlannedRun) -> Fingerprint:
    """Read from the run's folder where it was written before the first step, else taken now and written there."""
    file = run.folder / FILE
    if file.exists():
        mapping = json.loads(file.read_text(encoding="utf-8"))
        if "recipe" in mapping and not differing_keys(mapping["recipe"], run.recipe.to_dict()):
            return Fingerprint(mapping["init"], mapping["batches"], tuple(mapping.get("first", ())))
    taken = take_fingerprint(run.recipe)
    mapping = {"init": taken.init, "batches": taken.batches, "first": taken.first, "recipe": run.recipe.to_dict()}
    write_atomic(file, json.dumps(mapping, indent=1).encode())
    return taken


def take_fingerprint(recipe: Recipe) -> Fingerprint:
    """Builds the initial network and the first batches as a training would, and hashes both."""
    data = build_data(recipe, "train")
    model = build_model(recipe, data.table.num_classes, is_new=True)
    batches = list(_first_batches(recipe))
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(bytes_of(batch.image))
        digest.update(bytes_of(batch.label.long()))
        digest.update("\n".join(batch.sample_ids).encode())
    return Fingerprint(initial_hashes(model), short(digest.hexdigest()), tuple(map(batch_hash, batches)))


def _first_batches(recipe: Recipe) -> Iterator[Batch]:
    return train_batches(
        build_data(recipe, "train"),
        TrainTransform(recipe.data, padding_rgb(recipe.model.input), recipe.train.seed),
        seed=recipe.train.seed,
        batch_size=recipe.train.batch_size,
        first_step=0,
        max_steps=min(NUM_BATCHES, recipe.train.max_steps),
        workers=0,
        timeout_s=recipe.data.worker_timeout_s,
    )


def is_varied(part: str, varies: Sequence[str]) -> bool:
    """Whether a study that varies these keys lets runs differ in `part`: a top module's weights, or `batches`."""
    if part == "batches":
        deciding = ("data", "model.input", "train.batch_size")
        return any(_overlap(key, each) for key in varies for each in deciding)
    return any(_overlap(key, f"model.{'aux' if part == 'auxiliary' else part}") for key in varies)


def _overlap(one: str, other: str) -> bool:
    """Whether one of two dotted keys is the other or holds it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def disagreements(
    prints: Mapping[str, Fingerprint],
    runs: Sequence[PlannedRun],
    witnesses: Mapping[str, Witness] | None = None,
    varies: Sequence[str] = (),
) -> dict[str, str]:
    """By run name, why it cannot be compared with the first run of its seed; empty when all agree.

    Weights must agree wherever path and shape do, batches entirely, but for what the study varies. witnesses: by run
    name; what a log holds must be what its recipe stands for, every step of it, and the same batches in the same order
    as those of the first run for which that holds.
    """
    wrong: dict[str, str] = {}
    has_own_batches = is_varied("batches", varies)
    for seed in dict.fromkeys(run.seed for run in runs):
        first, *others = (run for run in runs if run.seed == seed)
        ours = prints[first.name]
        for run in others:
            theirs = prints[run.name]
            places = ours.init.keys() & theirs.init.keys()
            shared = [place for place in places if not is_varied(place.partition(".")[0], varies)]
            differing = sorted(place for place in shared if ours.init[place] != theirs.init[place])
            if theirs.batches != ours.batches and not has_own_batches:
                wrong[run.name] = f"saw other batches than {first.name} ({theirs.batches}, not {ours.batches})"
            elif differing:
                more = f" ({len(differing)} such places)"
                wrong[run.name] = f"began with other weights than {first.name} at {differing[0]}{more}"
    by_the_logs = _by_the_logs(prints, runs, witnesses or {}, has_own_batches=has_own_batches)
    for name, reason in by_the_logs.items():
        wrong.setdefault(name, reason)
    return wrong


def _by_the_logs(
    prints: Mapping[str, Fingerprint],
    runs: Sequence[PlannedRun],
    known: Mapping[str, Witness],
    *,
    has_own_batches: bool,
) -> dict[str, str]:
    told = [run for run in runs if run.name in known]
    own = {run.name: _unlike_its_recipe(run, prints[run.name], known[run.name]) for run in told}
    wrong = {name: reason for name, reason in own.items() if reason is not None}
    for run in [] if has_own_batches else told:
        first = next((other for other in told if other.seed == run.seed and other.name not in wrong), run)
        ours, theirs = known[first.name].batches, known[run.name].batches
        differing = [step for step, value in theirs.items() if ours.get(step, value) != value]
        if differing:
            at = f"at {len(differing)} of {len(theirs)} steps, first at step {differing[0]}"
            wrong.setdefault(run.name, f"saw other batches than {first.name} {at}")
    return wrong


def _unlike_its_recipe(run: PlannedRun, taken: Fingerprint, log: Witness) -> str | None:
    begun = taken.modules()
    other = sorted(name for name, value in (log.init or {}).items() if begun.get(name) != value)
    if other:
        return f"began with other weights than its recipe and seed give ({', '.join(other)}), as its log.jsonl says"
    if not log.batches:
        return None
    steps, planned = len(log.batches), run.recipe.train.max_steps
    if sorted(log.batches) != list(range(1, planned + 1)):
        return f"holds {steps} of {planned} steps in its log.jsonl"
    wrong_steps = [step for step, value in enumerate(taken.first, 1) if log.batches.get(step, value) != value]
    if wrong_steps:
        return f"saw other batches than its recipe and seed give, at step {wrong_steps[0]}, as its log.jsonl says"
    return None


def num_shared(prints: Mapping[str, Fingerprint], runs: Sequence[PlannedRun]) -> int:
    """How many parameters and buffers these runs have in common, by path and shape."""
    return len(set.intersection(*(set(prints[run.name].init) for run in runs)))


def control_dict(
    prints: Mapping[str, Fingerprint], wrong: Mapping[str, str], witnesses: Mapping[str, Witness] | None = None
) -> dict[str, dict[str, object]]:
    """For compare's JSON: hashes by run, of each top module's initial weights, of the first batches as the recipe gives
    them, and of all batches as the training wrote them down (null where it did not).
    """
    return {
        "init": {name: taken.modules() for name, taken in prints.items()},
        "batches": {name: taken.batches for name, taken in prints.items()},
        "batches_seen": {name: witness.seen for name, witness in (witnesses or {}).items()},
        "refused": dict(wrong),
    }
