"""Trains configs/streets/clips.yaml with one and with three frames: does a head use what another frame alone shows?

./run.sh bench clips [--seeds 3] [--steps 6000]

Makes data/streets_clips first. A finished run is not trained again. Writes benchmarks/results/clips/cpu.json: accuracy
on the ambiguous objects whose cue is outside of their frame (chance 50 %), mIoU, and the verdict, in which the frames
of a clip count as one image.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from command import ROOT, run_segnl
from timing import write_result

from segnl.core.environment import git_state, machine, versions
from segnl.data.groups import image_groups
from segnl.evaluation.evaluate_run import evaluate_run
from segnl.metrics.statistics.comparison import RunCounts, compare_heads
from segnl.runs.run import open_run
from segnl.studies.verdicts import pair_verdict

CONFIG = "configs/streets/clips.yaml"
SIZES = ("--train", "800", "--val", "100", "--hw", "128x128", "--frames", "3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "clips" / "cpu.json")
    args = parser.parse_args()
    run_segnl("data", "streets", "--out", "data/streets_clips", *SIZES)
    counts: dict[str, list[RunCounts]] = {}
    scores: dict[str, dict[str, list[float]]] = {}
    for seed in range(args.seeds):
        for num_frames in (1, 3):
            run = f"clips-{num_frames}-s{seed}"
            settings = (f"data.frames={num_frames}", f"train.seed={seed}", f"train.max_steps={args.steps}")
            run_segnl("train", "--config", CONFIG, "--run", run, *(word for key in settings for word in ("--set", key)))
            opened = open_run(ROOT / "checkpoints" / run)
            evaluation = evaluate_run(opened)
            groups = image_groups(opened.open_data("val"))
            correct, every = np.moveaxis(evaluation.pairs, 2, 0)  # images pairs
            name = f"{num_frames} frame{'s' if num_frames > 1 else ''}"
            counts.setdefault(name, []).append(RunCounts(correct, every, seed))
            of_name = scores.setdefault(name, {"ambiguous": [], "miou": []})
            of_name["ambiguous"].append(evaluation.metrics["ambiguous"]["mean"])
            of_name["miou"].append(evaluation.metrics["miou"])
            print(name, seed, json.dumps({key: round(values[-1], 4) for key, values in of_name.items()}), flush=True)
    (pair,) = compare_heads(counts, groups=groups)
    verdict = pair_verdict(pair, 1)
    result = {"scores": scores, "verdict": verdict, "pair": asdict(pair), "steps": args.steps, "sizes": SIZES}
    write_result(args.out, result | {"machine": machine(), "versions": versions(), **git_state(ROOT)})
    print(verdict)


if __name__ == "__main__":
    main()
