"""The context operators beside the usual N x N forms and mmcv's modules: seconds and peak memory, one interleaved run.

./run.sh bench ops [--peer-python PATH] [--rounds 5] [--sizes 33x33,65x65,97x97,128x256] [--out FILE]

Each kind (embedded_gaussian, dot_product, concatenation, criss_cross) as an operator (c = 256, channels-first;
criss-cross 64 and 512) and as a 512-channel block, batch 1, float32. `plain` is the textbook form, the `reference_`
functions of segnl/ops. `mmcv` runs if --peer-python is the Python of an environment with mmcv-lite 2.1.0 and mmengine
(and the same torch): blocks only. Every contestant is a process of its own; they take turns. Memory is the peak above
the inputs, forward and backward. Of maps with more than 20,000 positions only blocks are timed, once after the warm-up;
a quadratic form that does not fit the machine's memory is not started, and the result says so.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from timing import Contestant, interleaved, peak_mib, with_ratios, write_result

from segnl.core.environment import git_state, machine, versions

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("embedded_gaussian", "dot_product", "concatenation", "criss_cross")
MODES = ("forward", "forward_backward")
LARGE = 20_000
"""Positions from which on there is one round only: a quadratic form takes a minute a round there."""


def main() -> None:
    args = arguments()
    pythons = {"segnl": sys.executable, "plain": sys.executable}
    if args.peer_python is not None:
        pythons["mmcv"] = str(args.peer_python)
    sizes = [tuple(int(x) for x in size.split("x")) for size in args.sizes.split(",")]
    contestants = {name: Contestant(name, python, "ops_cases", args.threads) for name, python in pythons.items()}
    peers = {name: contestant.ask(do="versions") for name, contestant in contestants.items()}
    load_before, results = os.getloadavg()[0], []
    for hw in sizes:
        for kind in args.kinds.split(","):
            for level in args.levels.split(","):
                if level == "op" and hw[0] * hw[1] > LARGE:
                    continue
                case = {"level": level, "kind": kind, "hw": hw}
                named = {k: v for k, v in contestants.items() if level == "block" or k != "mmcv"}
                rounds = 1 if hw[0] * hw[1] > LARGE else args.rounds
                seconds = {m: interleaved(named, {**case, "mode": m}, rounds) for m in MODES}
                peaks = {
                    name: peak_mib(
                        name,
                        pythons[name],
                        "ops_cases",
                        args.threads,
                        {**case, "mode": "forward_backward"},
                        {**case, "hw": [9, 9], "mode": "forward_backward"},
                    )
                    for name in named
                }
                timed = {m: with_ratios(answers, "seconds") for m, answers in seconds.items()}
                results.append({**case, "rounds": rounds, **timed, "memory": with_ratios(peaks, "peak_mib")})
                report(results[-1])
    for contestant in contestants.values():
        contestant.close()
    if args.out is not None:
        setting = {"rounds": args.rounds, "threads": args.threads, "dtype": "float32", "batch": 1, "peers": peers}
        state = {**git_state(ROOT), "versions": versions(), "machine": machine(), "load_before": load_before}
        write_result(args.out, {**setting, **state, "results": results, "complete": True})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sizes", default="33x33,65x65,97x97,128x256")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--levels", default="op,block")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "ops" / "context.json")
    return parser.parse_args()


def report(result: dict[str, Any]) -> None:
    h, w = result["hw"]
    print(f"{result['kind']} {result['level']} {h}x{w}", flush=True)
    for quantity, key, unit, factor in (
        ("forward", "seconds", "ms", 1000),
        ("forward_backward", "seconds", "ms", 1000),
        ("memory", "peak_mib", "MiB", 1),
    ):
        values, ratios = result[quantity][key], result[quantity]["ratio_to_segnl"]
        cells = [f"{name} {factor * value:9.1f} {unit}" for name, value in values.items() if value is not None]
        cells += [f"{name} {ratio:.2f} x segnl" for name, ratio in ratios.items()]
        cells += [f"{name}: {reason}" for name, reason in result[quantity].get("cannot", {}).items()]
        print(f"  {quantity:<17}" + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
