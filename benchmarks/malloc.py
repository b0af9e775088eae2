"""Time and peak memory of a training step with glibc's malloc as it is, and with freed memory kept by the process.

./run.sh bench malloc [--rounds 15] [--threads 1] [--cases HEAD:HEIGHTxWIDTH:PRECISION,...] [--out FILE]

Both sides run the same step with the same settings, each in its own process. They take turns, and change the order
every round, so that a busy moment meets both. The ratio is taken round by round. Processor time counts user and system
time: it is what the clearing of fresh pages costs, and other programs disturb it less than wall time.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from timing import Contestant, write_result

from segnl.core.environment import git_state, machine, versions

ROOT = Path(__file__).resolve().parent.parent
CASES = "fcn:256x256:float32,rcca:256x512:float32,non_local:384x384:float32,unet:256x256:bf16"
SIDES = ("default", "kept")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cases", default=CASES, help=f"HEAD:HEIGHTxWIDTH:PRECISION, ... (default {CASES})")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "malloc" / "cpu.json")
    args = parser.parse_args()
    load_before, results = os.getloadavg()[0], []
    for text in args.cases.split(","):
        head, size, precision = text.split(":")
        case = {"head": head, "hw": [int(side) for side in size.split("x")], "batch": 2, "precision": precision}
        results.append(measure(case, args.rounds, args.threads))
        print(results[-1], flush=True)
    state = {**git_state(ROOT), "versions": versions(), "machine": machine(), "load_before": load_before}
    setting = {"rounds": args.rounds, "threads": args.threads}
    write_result(args.out, {**setting, **state, "results": results, "complete": True})


def measure(case: dict[str, Any], rounds: int, threads: int) -> dict[str, Any]:
    """Returns medians of both sides, and the ratio kept / default of each round as median and quartiles."""
    contestants = {side: Contestant(side, sys.executable, "malloc_cases", threads) for side in SIDES}
    for contestant in contestants.values():
        contestant.ask(do="build", case=case)
        contestant.ask(do="run")  # warms up
    runs: dict[str, dict[str, list[float]]] = {side: {"wall_s": [], "cpu_s": [], "peak_mib": []} for side in SIDES}
    for turn in range(rounds):
        for side in SIDES if turn % 2 else reversed(SIDES):
            answer = contestants[side].ask(do="run")
            for key, value in {"wall_s": answer["seconds"], **answer["parts"]}.items():
                runs[side][key].append(value)
    for contestant in contestants.values():
        contestant.close()
    ratios = {key: ratio(runs["default"][key], runs["kept"][key]) for key in runs["kept"]}
    medians = {side: {key: statistics.median(values) for key, values in runs[side].items()} for side in SIDES}
    return {**case, "medians": medians, "kept_over_default": ratios, "runs": runs}


def ratio(default: list[float], kept: list[float]) -> dict[str, float]:
    """Returns the median and the quartiles of kept / default over the rounds."""
    low, median, high = statistics.quantiles([b / a for a, b in zip(default, kept, strict=True)], n=4)
    return {"median": median, "low": low, "high": high}


if __name__ == "__main__":
    main()
