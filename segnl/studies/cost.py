"""Costs of a network for a study's table: parameters; FLOPs, time and memory of one crop; training speed."""

import statistics
from collections.abc import Mapping
from pathlib import Path

import torch

from segnl.core.config import JSONDict
from segnl.core.environment import machine
from segnl.core.errors import MachineError
from segnl.core.log import log
from segnl.core.result_cache import Record
from segnl.core.run_log import read_log
from segnl.profiling.cost import network_counts
from segnl.profiling.peak_memory import Profile, ProfileJob, profile
from segnl.runs.build import device_of
from segnl.runs.recipe import Recipe
from segnl.studies.study import PlannedRun

WARM_UP = 5  # steps at each start of a training run, while caches fill and workers start
LATENCY_S = 1.0  # seconds of passes per head; heads take turns, so that a busy moment affects all of them


def costs_of(runs: Mapping[str, PlannedRun], num_classes: int) -> dict[str, JSONDict]:
    """Returns each run's cost by the same key; costs in a run's cache are not counted or measured again.

    params: of the network at prediction, without the auxiliary head of training.
    gflops: billions of operations to predict one crop, a multiplication and its addition counted as two; convolutions
    and matrix products are counted, norms, activations and softmax are not. latency_ms, peak_mib: as in
    `segnl.profiling.peak_memory.Profile`, of one crop on this machine; None where it could not be measured.
    The counter imports torch's compiler, which alone takes seconds, and a time would be different each time.
    """
    counts = {name: _counts(run, num_classes) for name, run in runs.items()}
    keys = {name: _timing_key(run.recipe, num_classes) for name, run in runs.items()}
    timings = {name: run.cache.load("timing", keys[name], is_valid=_is_timing) for name, run in runs.items()}
    missing = [name for name, record in timings.items() if record is None]
    for name, measured in zip(missing, _measured([runs[name].recipe for name in missing], num_classes), strict=False):
        value = {name: getattr(measured, name) for name in ("latency_ms", "peak_mib", "threads", "passes")}
        timings[name] = record = Record(keys[name], value)
        runs[name].cache.store("timing", record)
    unknown = Record({}, {"latency_ms": None, "peak_mib": None})
    return {
        name: counts[name] | {key: (record or unknown).value[key] for key in unknown.value}
        for name, record in timings.items()
    }


def _is_timing(record: Record) -> bool:
    return all((value := record.value[key]) is None or value >= 0 for key in ("latency_ms", "peak_mib"))


def _counts(run: PlannedRun, num_classes: int) -> JSONDict:
    key = _network_key(run.recipe, num_classes)
    crop_hw = run.recipe.data.crop_hw
    params, gflops = run.cache.value(
        "cost",
        key,
        tuple[int, float],
        lambda: network_counts(run.recipe, num_classes, crop_hw),
        is_valid=lambda own: min(own) >= 0,
    )
    return {"params": params, "gflops": gflops}


def _network_key(recipe: Recipe, num_classes: int) -> JSONDict:
    key = {"version": 1, "model": recipe.to_dict()["model"], "hw": recipe.data.crop_hw, "classes": num_classes}
    return key | ({} if recipe.data.frames == 1 else {"frames": recipe.data.frames})


def _timing_key(recipe: Recipe, num_classes: int) -> JSONDict:
    device = device_of()
    return _network_key(recipe, num_classes) | {
        "arithmetic": [recipe.train.precision, recipe.eval.precision, recipe.train.channels_last],
        "machine": machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
    }


def _measured(recipes: list[Recipe], num_classes: int) -> list[Profile]:
    """Measures a profile for each recipe; returns none, with a warning, where that is impossible."""
    if not recipes:
        return []
    jobs = []
    for recipe in recipes:
        shape = (1, recipe.model.input.channels * recipe.data.frames, *recipe.data.crop_hw)
        jobs.append(ProfileJob(recipe.to_dict(), num_classes, "model", [shape], latency_s=LATENCY_S))
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
