"""Coverage of the intervals of `segnl compare`, in simulated studies whose true differences are known.

make calibrate          or: ./run.sh calibrate [--studies 2000] [--out FILE]; then docs/statistics.md is made anew

Every study has four heads: the control, an identical one (any difference found is an error) and two better ones. The
true difference is the mean over other studies, drawn from a separate random stream.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from calibration_population import Studies, Variation, draw, miou
from calibration_rivals import bootstrap, plain_sum, pooled
from statistics_page import statistics_page

from segnl.core.arrays import Floats, Mask
from segnl.core.environment import git_state, machine, versions
from segnl.core.files import write_atomic
from segnl.metrics.statistics.comparison import holm
from segnl.metrics.statistics.contributions import class_contributions, mean_over_classes
from segnl.metrics.statistics.variance import (
    ALPHA,
    Estimate,
    paired_difference,
    seeds_agree,
    spread_of,
    unpaired_difference,
)

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RESULT = RESULTS / "calibration" / "calibration.json"
PAGE = ROOT / "docs" / "statistics.md"

SEED = 20240607
STUDIES = 2000
"""Studies of each cell of the main table; the others have half as many."""
BOOTSTRAPPED = 500
"""Studies of a cell on which the slow bootstrap is run."""
IMAGES = 100
CHUNK = 50
PAIRS = [(a, b) for b in range(4) for a in range(b + 1, 4)]
IDENTICAL, SHOWN = PAIRS.index((1, 0)), PAIRS.index((3, 0))

SEEDS = Variation(seeds=(0.12,) * 4, response=0.1, rest=0.15, shift=(0, 0, 0.05, 0.15))
MIXED = replace(SEEDS, seeds=(0.1,) * 4, response=0.5, rest=0.25)
PICTURES = replace(SEEDS, seeds=(0.02,) * 4, response=0.7, rest=0.2)


@dataclass(frozen=True)
class Cell:
    """A line of the tables."""

    group: str
    name: str
    variation: Variation
    seeds: int


def cells() -> list[Cell]:
    """Returns the nine cells of the main table, heads of unequal variance, shared seeds, and four identical heads."""
    result = [
        Cell("main", name, variation, seeds)
        for name, variation in (("seeds", SEEDS), ("both", MIXED), ("images", PICTURES))
        for seeds in (2, 3, 5)
    ]
    for name, spread in (("one head 2x", (1, 1, 1, 2)), ("one head 3x", (1, 1, 1, 3))):
        unequal = replace(SEEDS, seeds=tuple(0.12 * factor for factor in spread))
        result += [Cell("unequal", name, unequal, seeds) for seeds in (2, 3, 5)]
    for name, share, spread in (("half", 0.5, 1), ("nine tenths", 0.9, 1), ("nine tenths, one head 2x", 0.9, 2)):
        alike = replace(SEEDS, seeds=(0.12, 0.12, 0.12, 0.12 * spread), shared=share)
        result += [Cell("alike", name, alike, seeds) for seeds in (2, 3, 5)]
    result += [Cell("identical", "four identical heads", replace(MIXED, shift=(0, 0, 0, 0)), s) for s in (2, 3, 5)]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    began = time.process_time()
    lines = []
    for i, cell in enumerate(cells()):
        studies = args.studies if cell.group == "main" else args.studies // 2
        lines.append(measure(cell, studies=studies, stream=i))
        print(f"{i + 1}/{len(cells())} {cell.name}, {cell.seeds} seeds: {summary(lines[-1])}", flush=True)
    result = {
        "cells": lines,
        "seed": SEED,
        "studies": args.studies,
        "images": IMAGES,
        "bootstrapped": BOOTSTRAPPED,
        "cpu_s": round(time.process_time() - began),
        "machine": machine(),
        "versions": versions(),
        **git_state(ROOT),
        "complete": True,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out, (json.dumps(result, indent=1) + "\n").encode())
    print(f"written: {args.out}, {result['cpu_s']} s of processor time")
    if args.out == RESULT:
        write_atomic(PAGE, statistics_page(RESULTS).encode())
        print(f"written: {PAGE}")


def summary(line: dict[str, Any]) -> str:
    return (
        f"covered {100 * line['coverage']:.1f} % (worst pair {100 * line['worst_coverage']:.1f} %), identical heads "
        f"called different {100 * line['false_alarms']:.1f} %, {line['width_ratio']:.2f} times the oracle's width"
    )


def measure(cell: Cell, *, studies: int, stream: int, images: int = IMAGES) -> dict[str, Any]:
    """Simulates a cell and returns its line of the result file; fractions, and points of mIoU."""
    rng = np.random.default_rng([SEED, stream])
    true = true_differences(cell.variation, studies=2 * studies, images=images)
    chunks: list[dict[str, Floats]] = []
    covered: list[Mask] = []
    widths: list[Floats] = []
    for first in range(0, studies, CHUNK):
        drawn = draw(rng, cell.variation, studies=min(CHUNK, studies - first), seeds=cell.seeds, images=images)
        chunks.append(intervals(drawn))
        if cell.group == "main" and first < BOOTSTRAPPED:
            low, high = bootstrap(rng, *(counts[:, list(PAIRS[SHOWN])] for counts in (drawn.intersection, drawn.union)))
            covered.append((low <= true[SHOWN]) & (true[SHOWN] <= high))
            widths.append(high - low)
    studied = {name: np.concatenate([chunk[name] for chunk in chunks], axis=-1) for name in chunks[0]}
    line = {
        "group": cell.group,
        "name": cell.name,
        "seeds": cell.seeds,
        "studies": studies,
        "variation": asdict(cell.variation),
        **judged(studied, true),
    }
    if covered:
        oracle_width = line["oracle_width"] / 100
        line["bootstrap_coverage"] = float(np.concatenate(covered).mean())
        line["bootstrap_width_ratio"] = float(np.concatenate(widths).mean() / oracle_width)
    return line


def judged(studied: dict[str, Floats], true: Floats) -> dict[str, Any]:
    """Scores the intervals of a cell. An oracle's have the actual standard deviation of the differences."""
    error = studied["value"] - true[:, None]
    oracle = 1.959964 * error.std(axis=1)
    families = np.array([holm(list(p)) for p in studied["p"].T], np.float64)
    line: dict[str, Any] = {
        "false_alarms": float((studied["p"][IDENTICAL] < ALPHA).mean()),
        "false_alarms_holm": float((families[:, true == 0] < ALPHA).any(axis=1).mean()),
        "difference": 100 * float(true[SHOWN]),
        "found": float((families[:, SHOWN] < ALPHA).mean()),
        "run_sd": 100 * float(np.sqrt(studied["run_var"].mean())),
        "seed_share": _seed_share(studied),
        "width": 200 * float(studied["half"][SHOWN].mean()),
        "oracle_width": 200 * float(oracle[SHOWN]),
    }
    line["by_seed"] = float(studied["by_seed"].mean())
    for prefix, half in (("", "half"), ("plain_sum_", "plain_sum"), ("pooled_", "pooled"), ("unpaired_", "unpaired")):
        covered = (np.abs(error) <= studied[half]).mean(axis=1)
        line[f"{prefix}coverage"] = float(covered.mean())
        line[f"{prefix}worst_coverage"] = float(covered.min())
        line[f"{prefix}width_ratio"] = float((studied[half].mean(axis=1) / oracle).mean())
    return line


def _seed_share(studied: dict[str, Floats]) -> float:
    """Returns the fraction of a difference's variance that is due to seeds, averaged over the studies."""
    return float(studied["seeds"][SHOWN].mean() / (studied["seeds"][SHOWN] + studied["images"][SHOWN]).mean())


@cache
def true_differences(variation: Variation, *, studies: int, images: int) -> Floats:
    """Returns expected differences of the pairs, from a separate random stream; exactly 0 for identical heads."""
    rng = np.random.default_rng([SEED, 1000, *(round(1000 * sd) for sd in (*variation.seeds, variation.response))])
    scores = [miou(draw(rng, variation, studies=CHUNK, seeds=2, images=images)) for _ in range(0, studies, CHUNK)]
    mean = np.concatenate(scores).mean(axis=(0, 2))
    heads = list(zip(variation.seeds, variation.shift, strict=True))
    return np.array([0.0 if heads[a] == heads[b] else mean[a] - mean[b] for a, b in PAIRS])


def intervals(drawn: Studies) -> dict[str, Floats]:
    """Returns each pair's difference, half width and p, `6 studies`; the studies take the place of the measures."""
    by_image = mean_over_classes(class_contributions(drawn.intersection, drawn.union))
    contributions = np.moveaxis(by_image, 1, 0)  # heads studies s n
    of_heads = [np.moveaxis(of_head, 0, 2) for of_head in contributions]  # s n studies each
    spreads = [spread_of(of_head) for of_head in of_heads]
    by_seed = seeds_agree(of_heads)
    unpaired = [unpaired_difference(spreads, a, b) for a, b in PAIRS]
    paired = [paired_difference(of_heads, a, b) for a, b in PAIRS]

    def chosen(value: Callable[[Estimate], Floats]) -> Floats:
        """Selects as compare_heads does: seed by seed in the studies whose seeds agree."""
        return np.where(by_seed, *(np.stack([value(e) for e in estimates]) for estimates in (paired, unpaired)))

    return {
        "by_seed": by_seed,
        "value": np.stack([estimate.value for estimate in unpaired]),
        "half": chosen(Estimate.half_width),
        "p": chosen(Estimate.p),
        "seeds": chosen(lambda estimate: estimate.seeds),
        "images": chosen(lambda estimate: estimate.images),
        "unpaired": np.stack([estimate.half_width() for estimate in unpaired]),
        "run_var": np.mean([spread.seed_var for spread in spreads], axis=0),
        "plain_sum": np.stack([plain_sum(spreads, a, b) for a, b in PAIRS]),
        "pooled": np.stack([pooled(spreads, a, b) for a, b in PAIRS]),
    }


if __name__ == "__main__":
    main()
