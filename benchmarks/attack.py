"""Coverage of the intervals of `segnl compare` in populations that try to break them; part of `make calibrate`.

./run.sh python benchmarks/attack.py [--studies 1000] [--out FILE]; then docs/statistics.md is made anew

The populations are those of attack_populations.py; a hostile reader of an earlier version found the weaknesses. Every
line also has the interval of that version, where it differs: `before`.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from attack_judge import contributions, judge, over_classes, pairs_of
from attack_planning import diverged_lines, hint_lines, look_lines, power_lines
from attack_populations import Population, draw
from calibrate import PAGE, RESULTS
from statistics_page import statistics_page

from segnl.core.arrays import Floats, Mask
from segnl.core.environment import git_state, machine, versions
from segnl.core.files import write_atomic
from segnl.metrics.confusion import ratio
from segnl.metrics.statistics.comparison import holm
from segnl.metrics.statistics.variance import ALPHA

RESULT = RESULTS / "calibration" / "attack.json"
SEED = 20261128
STUDIES = 1000
CHUNK = 100

IMAGES = Population(seed_sd=0.02, rest_sd=0.1)
"""Images dominate."""
SEEDS = Population(images=40, common=4, seed_sd=0.12, image_sd=0.1, rest_sd=0.1)
"""Seeds dominate."""
CAMVID = Population(
    common=8, rare=(15, 30, 60), seed_sd=0.12, image_sd=0.5, cluster=20, alike=0.7, shift=(0, 0, 0.1, 0.2)
)
RARE = (2.5, 2.5, 2.5)
IDENTICAL = (0, 0, 0, 0)


@dataclass(frozen=True)
class Cell:
    """A line of the tables. before: `linearised` contributions, `no groups`, `score` (classes as the score counts them)
    or `pretest` (pairing by seed whatever the number of heads)."""

    table: str
    name: str
    population: Population
    seeds: int = 3
    before: str = "linearised"


def cells() -> Iterator[Cell]:
    """Returns the populations of each table."""
    for family in ("logit", "beta", "tracks"):
        own = replace(IMAGES, family=family)
        yield Cell("images", f"{family}: ten classes in 9 of 10 images", replace(own, common=10))
        yield Cell("images", f"{family}: 3 of 10 classes in 2 or 3 images", replace(own, rare=RARE))
        yield Cell("images", f"{family}: 6 of 10 classes in 2 or 3 images", replace(own, common=4, rare=(2.5,) * 6))
        yield Cell("images", f"{family}: ten images", replace(own, images=10))
        yield Cell("images", f"{family}: images of very unequal size", replace(own, size_sd=1.5))
    yield Cell("images", "logit: Student's t, 3 degrees of freedom", replace(IMAGES, tail_df=3))
    for heads in (2, 3):
        for shared in (0, 0.5, 0.9):
            for seeds in (2, 3, 5):
                population = replace(SEEDS, shared=shared, shift=(0,) * heads)
                yield Cell("few heads", f"{heads} heads, {100 * shared:.0f} % shared", population, seeds, "pretest")
    for size in (2, 5, 10, 20):
        for family in ("logit", "tracks"):
            population = replace(IMAGES, family=family, cluster=size, alike=0.7)
            yield Cell("groups", f"{family}: clusters of {size}", population, before="no groups")
    video = replace(IMAGES, family="tracks", cluster=5, rare=(10, 15, 15))
    yield Cell("groups", "tracks: clusters of 5, three rare classes", video, before="no groups")
    yield Cell("groups", "like CamVid, five drives of 20 frames", CAMVID, 10, "no groups")
    for size in (10, 20):
        drive = replace(IMAGES, cluster=size, drift=0.9)
        yield Cell("groups", f"one drive cut into pieces of {size} frames", drive, before="no groups")
    absent = replace(IMAGES, common=6, stray=0.3)
    yield Cell("absent", "logit: a stray class in 3 of 10 runs", absent, before="score")
    yield Cell("absent", "beta: a stray class in 3 of 10 runs", replace(absent, family="beta"), before="score")
    for name, population in (
        ("logit: 3 of 10 classes in 2 or 3 images", replace(IMAGES, rare=RARE)),
        ("tracks: clusters of 10", replace(IMAGES, family="tracks", cluster=10)),
        ("beta: ten images", replace(IMAGES, family="beta", images=10)),
        ("logit: seeds dominate, half shared", replace(SEEDS, shared=0.5)),
    ):
        yield Cell("identical", name, replace(population, shift=IDENTICAL))


def true_differences(cell: Cell) -> Floats:
    """Returns the expected difference of each pair's scores, from its own stream; exactly 0 for identical heads."""
    rng, scores = np.random.default_rng([SEED, 1]), []
    for _ in range(0, 2 * STUDIES, CHUNK):
        drawn = draw(rng, cell.population, studies=CHUNK, seeds=2)
        iou = ratio(drawn.intersection.sum(axis=-2), drawn.union.sum(axis=-2))[..., None, :]
        scores.append(over_classes(iou, drawn)[..., 0].mean(axis=2))
    mean, shift = np.concatenate(scores).mean(axis=0), cell.population.shift
    return np.array([0.0 if shift[a] == shift[b] else mean[a] - mean[b] for a, b in pairs_of(cell.population)])


def measure(cell: Cell, *, studies: int, stream: int) -> dict[str, Any]:
    """Simulates a cell and returns its line of the result file."""
    rng, pairs, population = np.random.default_rng([SEED, 2, stream]), pairs_of(cell.population), cell.population
    results: dict[str, list[dict[str, Floats]]] = {"now": [], "before": []}
    for first in range(0, studies, CHUNK):
        drawn = draw(rng, population, studies=min(CHUNK, studies - first), seeds=cell.seeds)
        now = over_classes(contributions(drawn, population), drawn)
        results["now"].append(judge(now, pairs))
        linearised = contributions(drawn, population, linearised=True, in_groups=False)
        before = over_classes(linearised, drawn, of_truth=cell.before != "score")
        results["before"].append(judge(before, pairs, with_pretest=True))
    true = true_differences(cell)
    line: dict[str, Any] = {"table": cell.table, "name": cell.name, "seeds": cell.seeds, "studies": studies}
    for when, chunks in results.items():
        line[when] = scored({key: np.concatenate([c[key] for c in chunks], axis=-1) for key in chunks[0]}, true)
    return line | {"population": asdict(population)}


def scored(studied: dict[str, Floats], true: Floats) -> dict[str, float | None]:
    """Returns coverage, of all pairs and the worst, false verdicts on identical heads, and the mean relative width."""
    covered = np.abs(studied["value"] - true[:, None]) <= studied["half"]
    p, by_seed, identical = studied["p"], studied["by_seed"].astype(bool), true == 0
    families = np.array([holm(list(own)) for own in p.T], np.float64)
    oracle = 1.959964 * studied["value"].std(axis=1)
    return {
        "coverage": float(covered.mean()),
        "worst_coverage": float(covered.mean(axis=1).min()),
        "false": float((p[identical] < ALPHA).mean()),
        "false_holm": float((families[:, identical] < ALPHA).any(axis=1).mean()),
        "width_ratio": float((studied["half"].mean(axis=1) / oracle).mean()),
        "by_seed": float(by_seed.mean()),
        "coverage_by_seed": float(covered[:, by_seed].mean()) if by_seed.any() else None,
        "false_by_seed": float((p[identical][:, by_seed] < ALPHA).mean()) if by_seed.any() else None,
    }


def class_lines(studies: int) -> Iterator[dict[str, Any]]:
    """Returns the coverage of the intervals of single classes that are in about 1.5 to 10 of 100 images."""
    for family in ("logit", "beta", "tracks"):
        for expected in (1.5, 2.5, 5.0, 10.0):
            population = replace(IMAGES, family=family, rare=(expected,), shift=(0, 0.3))
            yield {"family": family, "images": expected} | _class_line(population, studies)


def _class_line(population: Population, studies: int) -> dict[str, float]:
    rng, parts = np.random.default_rng([SEED, 3, int(10 * population.rare[0])]), []
    for _ in range(0, studies, CHUNK):
        drawn = draw(rng, population, studies=CHUNK, seeds=3)
        num_holding = (drawn.target[..., -1] > 0).sum(axis=1)
        has_interval = num_holding > 1
        of_class = [contributions(drawn, population, linearised=way)[..., -1] for way in (False, True)]
        now = judge(of_class[0], [(1, 0)], most_df=np.maximum(1, num_holding - 1))
        before = judge(of_class[1], [(1, 0)])
        parts.append((now["value"][0], now["half"][0], before["half"][0], has_interval))
    value, now, before, has_interval = (np.concatenate(values) for values in zip(*parts, strict=True))
    error: Floats = np.abs(value - value.mean())[has_interval]
    is_covered: list[Mask] = [error <= half[has_interval] for half in (now, before)]
    return {
        "coverage": float(is_covered[0].mean()),
        "before": float(is_covered[1].mean()),
        "without_interval": float(1 - has_interval.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    began, lines = time.process_time(), []
    for i, cell in enumerate(cells()):
        lines.append(measure(cell, studies=args.studies, stream=i))
        now, before = lines[-1]["now"], lines[-1]["before"]
        covers = f"covers {100 * now['coverage']:.1f} % (worst pair {100 * now['worst_coverage']:.1f} %)"
        print(f"{cell.name}, {cell.seeds} seeds: {covers}, before {100 * before['coverage']:.1f} %", flush=True)
    result = {
        "cells": lines,
        "classes": list(class_lines(args.studies)),
        "looks": list(look_lines(args.studies)),
        "power": list(power_lines(args.studies)),
        "hint": list(hint_lines(args.studies)),
        "diverged": list(diverged_lines(args.studies)),
        "seed": SEED,
        "studies": args.studies,
        "cpu_s": round(time.process_time() - began),
        "machine": machine(),
        "versions": versions(),
        **git_state(Path(__file__).resolve().parent.parent),
        "complete": True,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out, (json.dumps(result, indent=1) + "\n").encode())
    print(f"written: {args.out}, {result['cpu_s']} s of processor time")
    if args.out == RESULT:
        write_atomic(PAGE, statistics_page(RESULTS).encode())
        print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
