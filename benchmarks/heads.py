"""Whole heads beside mmsegmentation's: seconds and peak memory, one interleaved run.

./run.sh bench heads --peer-python PATH [--rounds 3] [--hw 65x65] [--heads fcn,aspp,...] [--out FILE]

Every head with its published settings and classifier, batch 1, float32, over stages of a ResNet-50 at output stride 8:
as evaluation runs it, and as training does, with the gradients of parameters and stages. PATH is the Python of an
environment with mmsegmentation 1.2.2, mmengine and mmcv-lite 2.1.0 (and the same torch). Every contestant is a process
of its own; they take turns. Memory is the peak above weights and stages, in training.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from heads_cases import PEERS
from timing import Contestant, interleaved, peak_mib, with_ratios, write_result

from segnl.core.environment import git_state, machine, versions

ROOT = Path(__file__).resolve().parent.parent
MODES = ("forward", "forward_backward")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hw", default="65x65")
    parser.add_argument("--heads", default=",".join(PEERS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "heads" / "cpu.json")
    args = parser.parse_args()
    hw = [int(x) for x in args.hw.split("x")]
    pythons = {"segnl": sys.executable, "mmseg": str(args.peer_python)}
    contestants = {name: Contestant(name, python, "heads_cases", args.threads) for name, python in pythons.items()}
    peers = {name: one.ask(do="versions") for name, one in contestants.items()}
    load_before, results = os.getloadavg()[0], []
    for head in args.heads.split(","):
        case = {"head": head, "hw": hw}
        found = {m: with_ratios(interleaved(contestants, {**case, "mode": m}, args.rounds), "seconds") for m in MODES}
        trained = {**case, "mode": "forward_backward"}
        peaks = {
            name: peak_mib(name, python, "heads_cases", args.threads, trained, {**trained, "hw": [9, 9]})
            for name, python in pythons.items()
        }
        results.append({**case, **found, "memory": with_ratios(peaks, "peak_mib")})
        print(f"{head}: {results[-1]}", flush=True)
    for one in contestants.values():
        one.close()
    state = {**git_state(ROOT), "versions": versions(), "machine": machine(), "load_before": load_before}
    setting = {"rounds": args.rounds, "threads": args.threads, "peers": peers}
    write_result(args.out, {**setting, **state, "results": results, "complete": True})


if __name__ == "__main__":
    main()
