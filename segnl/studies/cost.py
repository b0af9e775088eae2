"""Costs of a network for a study's table: parameters; FLOPs, time and memory of one crop; training speed."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segnl.core.config import JSONDict
from segnl.core.environment import machine
from segnl.core.errors import MachineError
from segnl.core.files import write_atomic
from segnl.core.log import log
from segnl.core.run_log import read_log
from segnl.profiling.cost import network_counts
from segnl.profiling.peak_memory import Profile, ProfileJob, profile
from segnl.runs.build import device_of
from segnl.runs.recipe import Recipe
from segnl.studies.study import PlannedRun

FILE = "cost.json"
WARM_UP = 5  # steps at each start of a training, while caches fill and workers start
LATENCY_S = 1.0  # seconds of passes per head; heads take turns, so that a busy moment affects all of them


@dataclass(frozen=True)
class HeadCost:
    """Costs of one head's network.

    params: of the network at prediction, without the auxiliary head of training.
    gflops: billions of operations to predict one crop, a multiplication and its addition counted as two; convolutions
    and matrix products are counted, norms, activations and softmax are not. latency_ms, peak_mib: as in
    `segnl.profiling.peak_memory.Profile`, of one crop on this machine; None where it could not be measured.
    """

    params: int
    gflops: float
    latency_ms: float | None = None
    peak_mib: float | None = None


def costs_of(runs: Mapping[str, PlannedRun], num_classes: int) -> dict[str, HeadCost]:
    """Returns each run's cost by the same key; what a run's cost.json holds is not counted or measured again.

    The counter imports torch's compiler, which alone takes seconds, and a time would be different each time.
    """
    kept = {key: _counted(run.recipe, num_classes, run.folder) for key, run in runs.items()}
    place = _place()
    missing = [key for key, mapping in kept.items() if mapping.get("measured", {}).get("machine") != place]
    for key, found in zip(missing, _measured([runs[key].recipe for key in missing], num_classes), strict=False):
        about = {"machine": place, "threads": found.threads, "passes": found.passes}
        kept[key]["measured"] = {"latency_ms": found.latency_ms, "peak_mib": found.peak_mib} | about
        write_atomic(runs[key].folder / FILE, json.dumps(kept[key]).encode())
    return {key: _cost(mapping) for key, mapping in kept.items()}


def _place() -> JSONDict:
    device = device_of()
    return machine() | {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type}


def _cost(mapping: Mapping[str, Any]) -> HeadCost:
    measured = mapping.get("measured", {})
    return HeadCost(mapping["params"], mapping["gflops"], measured.get("latency_ms"), measured.get("peak_mib"))


def _counted(recipe: Recipe, num_classes: int, run: Path) -> JSONDict:
    """Returns the content of cost.json, counted and written where it is missing or of another network."""
    belongs_to: JSONDict = json.loads(
        json.dumps({"model": recipe.to_dict()["model"], "hw": recipe.data.crop_hw, "classes": num_classes})
    )
    try:
        mapping: JSONDict = json.loads((run / FILE).read_text(encoding="utf-8"))
        if mapping["belongs_to"] == belongs_to and {"params", "gflops"} <= mapping.keys():
            return mapping
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there yet, or of an earlier version
    params, gflops = network_counts(recipe, num_classes, recipe.data.crop_hw)
    mapping = {"params": params, "gflops": gflops, "belongs_to": belongs_to}
    write_atomic(run / FILE, json.dumps(mapping).encode())
    return mapping


def _measured(recipes: list[Recipe], num_classes: int) -> list[Profile]:
    """Measures a profile for each recipe; returns none, with a warning, where that is impossible."""
    jobs = [
        ProfileJob(recipe.to_dict(), num_classes, "model", ((1, 3, *recipe.data.crop_hw),), latency_s=LATENCY_S)
        for recipe in recipes
    ]
    if not jobs:
        return []
    log.info("timing one crop in %d network%s", len(jobs), "s" if len(jobs) > 1 else "")
    try:
        return profile(jobs)
    except MachineError as err:
        log.warning("latency and memory are left out: %s", err)
        return []


def train_images_per_s(run: Path) -> float | None:
    """Returns the median over the steps of a run's log, without the first ones of each start; None if too few."""
    rates: list[float] = []
    since_start = 0
    for line in read_log(run / "log.jsonl"):
        if line.get("event") == "start":
            since_start = 0
        elif "images_per_s" in line:
            since_start += 1
            if since_start > WARM_UP:
                rates.append(float(line["images_per_s"]))
    return statistics.median(rates) if rates else None
