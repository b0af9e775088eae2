"""Checks by hashes that the runs of a study share what they should: their initial weights and their batches."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segnl.core.run_log import read_log
from segnl.data.digest import content_digest
from segnl.data.loader import BatchKeys, BatchPlan, train_batches
from segnl.data.transforms import TrainTransform
from segnl.runs.build import build_data, build_model
from segnl.runs.recipe import Recipe, deciding_keys
from segnl.studies.study import PlannedRun
from segnl.training.run_hashes import batch_hash, bytes_of, initial_hashes, module_hashes, short

NAME = "control"
NUM_BATCHES = 2
"""Two are enough to tell two data pipelines apart: a batch depends on nothing but the seed and the step."""


@dataclass(frozen=True)
class RunHashes:
    """Hashes that a run's recipe and seed specify: of the initial weights and of the first batches.

    init: SHA-256 of each parameter and buffer, by `path shape`. batches: one hash of the first NUM_BATCHES batches.
    first: for each of those batches the hash that a training run writes into its log.
    """

    init: dict[str, str]
    batches: str
    first: tuple[str, ...] = ()

    def modules(self) -> dict[str, str]:
        """Returns one short hash for each top module: backbone, head, classifier, auxiliary."""
        return module_hashes(self.init)


@dataclass(frozen=True)
class LoggedHashes:
    """Hashes that a training run wrote into its log.

    batches: by step; empty for a log without them, and for a run on several ranks, which logs only rank 0's share.
    init: by top module; None for a log without them.
    """

    batches: dict[int, str]
    init: dict[str, str] | None

    @property
    def all_batches(self) -> str | None:
        """One hash of all batches in their order; None where the log has none."""
        text = "\n".join(f"{step} {value}" for step, value in sorted(self.batches.items()))
        return short(hashlib.sha256(text.encode()).hexdigest()) if self.batches else None


def logged_hashes(folder: Path) -> LoggedHashes:
    """Reads them from the log in a run's folder."""
    lines = read_log(folder / "log.jsonl")
    starts = [line for line in lines if line.get("event") == "start"]
    has_ranks = any(line.get("ranks", 1) > 1 for line in starts)
    batches = {} if has_ranks else {line["step"]: line["batch"] for line in lines if {"step", "batch"} <= line.keys()}
    return LoggedHashes(batches, next((line["init"] for line in starts if "init" in line), None))


def run_hashes_of(run: PlannedRun) -> RunHashes:
    """Reads the hashes from the run's cache; computes them where recipe or the first batches' files are others."""
    data = build_data(run.recipe, "train")
    plan = _first_batches(run.recipe)
    images = sorted({index for batch in BatchKeys(len(data), plan) for _, index in batch})
    key = {
        "version": 1,
        "recipe": deciding_keys(run.recipe.to_dict()),
        "num_images": len(data),
        "images": content_digest(data, images),
    }
    return run.cache.value(NAME, key, RunHashes, lambda: compute_run_hashes(run.recipe))


def compute_run_hashes(recipe: Recipe) -> RunHashes:
    """Builds the initial network and the first batches as a training run would, and hashes both."""
    data = build_data(recipe, "train")
    model = build_model(recipe, data.table.num_classes, is_new=True)
    batches = train_batches(
        data,
        TrainTransform(recipe.data, recipe.model.input.padding_rgb, recipe.train.seed),
        _first_batches(recipe),
        workers=0,
        timeout_s=recipe.data.worker_timeout_s,
    )
    hashes = []
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(bytes_of(batch.image))
        digest.update(bytes_of(batch.label.long()))
        digest.update("\n".join(batch.sample_ids).encode())
        hashes.append(batch_hash(batch))
    return RunHashes(initial_hashes(model), short(digest.hexdigest()), tuple(hashes))


def _first_batches(recipe: Recipe) -> BatchPlan:
    return BatchPlan(recipe.train.seed, recipe.train.batch_size, 0, min(NUM_BATCHES, recipe.train.num_steps))


def is_varied(name: str, varies: Sequence[str]) -> bool:
    """Tells whether runs may differ in `name` when the study varies these recipe keys.

    name: a top module, whose weights may differ then, or `batches`.
    """
    if name == "batches":
        return any(_overlap(key, own) for key in varies for own in ("data", "model.input", "train.batch_size"))
    return any(_overlap(key, f"model.{'aux' if name == 'auxiliary' else name}") for key in varies)


def _overlap(key: str, other_key: str) -> bool:
    return f"{key}.".startswith(f"{other_key}.") or f"{other_key}.".startswith(f"{key}.")


def refused_runs(
    hashes: Mapping[str, RunHashes],
    runs: Sequence[PlannedRun],
    logged: Mapping[str, LoggedHashes] | None = None,
    varies: Sequence[str] = (),
) -> dict[str, str]:
    """Returns, by run name, the reason why a run cannot be compared with the first run of its seed.

    Initial weights must be equal wherever path and shape are, and batches must be equal, except for what the study
    varies. hashes, logged: by run name. A log must agree with its recipe and seed in every step, and with the first run
    of its seed that does so.
    """
    refused: dict[str, str] = {}
    firsts: dict[int, PlannedRun] = {}
    for run in runs:
        first = firsts.setdefault(run.seed, run)
        reason = _recipe_mismatch(hashes[run.name], first.name, hashes[first.name], varies)
        if reason is not None:
            refused[run.name] = reason
    logs = logged or {}
    with_log = [run for run in runs if run.name in logs]
    for run in with_log:
        reason = _log_mismatch(run, hashes[run.name], logs[run.name])
        if reason is not None:
            refused.setdefault(run.name, reason)
    for run in [] if is_varied("batches", varies) else with_log:
        first = next((other for other in with_log if other.seed == run.seed and other.name not in refused), run)
        expected, batches = logs[first.name].batches, logs[run.name].batches
        differing = [step for step, value in batches.items() if expected.get(step, value) != value]
        if differing:
            steps = f"at {len(differing)} of {len(batches)} steps, first at step {differing[0]}"
            refused.setdefault(run.name, f"used different batches than {first.name} {steps}")
    return refused


def _recipe_mismatch(own: RunHashes, first_name: str, first: RunHashes, varies: Sequence[str]) -> str | None:
    if own.batches != first.batches and not is_varied("batches", varies):
        return f"used different batches than {first_name} ({own.batches}, not {first.batches})"
    differing = sorted(
        place
        for place in first.init.keys() & own.init.keys()
        if first.init[place] != own.init[place] and not is_varied(place.partition(".")[0], varies)
    )
    if differing:
        return f"started from other weights than {first_name} at {differing[0]} ({len(differing)} such places)"
    return None


def _log_mismatch(run: PlannedRun, hashes: RunHashes, log: LoggedHashes) -> str | None:
    """Returns how a run's log differs from what its recipe and seed specify."""
    modules = hashes.modules()
    differing = sorted(name for name, value in (log.init or {}).items() if modules.get(name) != value)
    if differing:
        names = ", ".join(differing)
        return f"started from other weights than its recipe and seed specify ({names}), according to its log.jsonl"
    if not log.batches:
        return None
    steps, planned = len(log.batches), run.recipe.train.num_steps
    if sorted(log.batches) != list(range(1, planned + 1)):
        return f"has {steps} of {planned} steps in its log.jsonl"
    wrong_steps = [step for step, value in enumerate(hashes.first, 1) if log.batches.get(step, value) != value]
    at = f"at step {wrong_steps[0]}, according to its log.jsonl" if wrong_steps else ""
    return f"used different batches than its recipe and seed specify, {at}" if wrong_steps else None


def num_shared_tensors(hashes: Mapping[str, RunHashes], runs: Sequence[PlannedRun]) -> int:
    """Counts the parameters and buffers that all these runs have, by path and shape."""
    return len(set.intersection(*(set(hashes[run.name].init) for run in runs)))


def control_dict(
    hashes: Mapping[str, RunHashes], refused: Mapping[str, str], logged: Mapping[str, LoggedHashes] | None = None
) -> dict[str, dict[str, object]]:
    """Returns `control` of compare's JSON: hashes by run.

    init: of each top module's initial weights. batches: of the first batches that the recipe gives. batches_seen: of
    all batches that the training logged, null where it logged none. refused: reasons.
    """
    return {
        "init": {name: own.modules() for name, own in hashes.items()},
        "batches": {name: own.batches for name, own in hashes.items()},
        "batches_seen": {name: own.all_batches for name, own in (logged or {}).items()},
        "refused": dict(refused),
    }
