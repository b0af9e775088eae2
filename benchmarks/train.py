"""Seconds of a training step beside torchvision's, segmentation_models.pytorch's and mmsegmentation's models.

./run.sh bench train --peer-python PATH [--rounds 3] [--hw 512x512] [--cases aspp_256:torchvision,...] [--out FILE]

ResNet-50, output stride 8, batch 2, on the CPU, one interleaved run; segnl in float32 as the peers, and in bfloat16
with channels_last. PATH is the Python of an environment with
mmsegmentation 1.2.2, mmengine, mmcv-lite 2.1.0 and segmentation-models-pytorch (and the same torch). Every contestant
is a process of its own; they take turns. See train_cases.py for the step.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from timing import Contestant, interleaved, with_ratios, write_result

from segnl.core.environment import git_state, machine, versions

ROOT = Path(__file__).resolve().parent.parent
CASES = "aspp_256:torchvision,aspp_256:smp,aspp:mmseg,non_local:mmseg,rcca:mmseg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--hw", default="512x512")
    parser.add_argument("--cases", default=CASES, help=f"HEAD:PEER, ... (default {CASES})")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "train" / "cpu.json")
    args = parser.parse_args()
    load_before, results = os.getloadavg()[0], []
    for pair in args.cases.split(","):
        head, peer = pair.split(":")
        sizes = {"batch": args.batch, "hw": [int(x) for x in args.hw.split("x")]}
        case = {"head": head, "peer": peer, **sizes}
        pythons = {"segnl": sys.executable, "segnl bf16": sys.executable, peer: str(args.peer_python)}
        contestants = {name: Contestant(name, python, "train_cases", args.threads) for name, python in pythons.items()}
        peers = contestants[peer].ask(do="versions")
        answers = interleaved(contestants, case, args.rounds)
        result = with_ratios(answers, "seconds")
        result["parts"] = {name: answer["parts"] for name, answer in answers.items() if "parts" in answer}
        for contestant in contestants.values():
            contestant.close()
        results.append({**case, "peer_versions": peers, **result})
        print(f"{pair}: {result}", flush=True)
    state = {**git_state(ROOT), "versions": versions(), "machine": machine(), "load_before": load_before}
    setting = {"rounds": args.rounds, "threads": args.threads, "malloc": "freed memory kept by all"}
    write_result(args.out, {**setting, **state, "results": results, "complete": True})


if __name__ == "__main__":
    main()
