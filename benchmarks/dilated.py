"""ASPP's dilated convolutions in bfloat16 on the CPU, segnl's beside torch's: seconds, one interleaved run.

./run.sh bench dilated [--rounds 5] [--out FILE]

3x3, channels last, each contestant a process of its own; they take turns.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from timing import Case, Contestant, interleaved, with_ratios, write_result

from segnl.core.environment import git_state, machine, versions

ROOT = Path(__file__).resolve().parent.parent
SHAPES: list[Case] = [
    {"batch": batch, "channels": channels, "hw": [side, side], "dilation": dilation}
    for batch, side, channels in ((2, 64, [1536, 256]), (2, 64, [2048, 256]), (1, 97, [2048, 256]))
    for dilation in (12, 24, 36)
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "ops" / "dilated.json")
    args = parser.parse_args()
    contestants = {name: Contestant(name, sys.executable, "dilated_cases", args.threads) for name in ("segnl", "torch")}
    load_before, results = os.getloadavg()[0], []
    for shape in SHAPES:
        timed = {
            way: with_ratios(interleaved(contestants, {**shape, "is_trained": is_trained}, args.rounds), "seconds")
            for way, is_trained in (("forward", False), ("forward_backward", True))
        }
        results.append({**shape, **timed})
        ratios = ", ".join(f"{way} {part['ratio_to_segnl']['torch']:.2f} x segnl" for way, part in timed.items())
        print(f"{shape['channels']} {shape['hw']} dilation {shape['dilation']}: torch {ratios}", flush=True)
    for contestant in contestants.values():
        contestant.close()
    state = {**git_state(ROOT), "versions": versions(), "machine": machine(), "load_before": load_before}
    setting = {"rounds": args.rounds, "threads": args.threads}
    write_result(args.out, {**setting, **state, "results": results, "complete": True})


if __name__ == "__main__":
    main()
