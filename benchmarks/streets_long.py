"""Trains heads on many streets for long, and scores them on the ambiguous pairs, which only distant cues decide.

./run.sh bench streets_long [--heads fcn,aspp,non_local,rcca] [--seed 0]

Makes data/streets_long first. Resumable: a finished run is not trained again. Writes
benchmarks/results/streets_long/HEAD-sSEED.json, from which benchmarks/pages.py makes docs/results.md.
"""

import argparse
import json
from pathlib import Path

from command import ROOT, run_segnl

import segnl
from segnl.core.environment import machine
from segnl.core.files import write_atomic
from segnl.metrics.confusion import Confusion
from segnl.metrics.strata import pair_counts
from segnl.runs.build import build_data
from segnl.runs.checkpoint import open_checkpoint
from segnl.streets.pairs import PAIRS

RESULTS = ROOT / "benchmarks" / "results" / "streets_long"
HEADS = "fcn,aspp,non_local,rcca"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", default=HEADS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    run_segnl("data", "streets", "--out", "data/streets_long", "--train", "4000", "--val", "200", "--hw", "128x256")
    for head in args.heads.split(","):
        run = f"long-{head}-s{args.seed}"
        config = f"configs/streets/long_{head}.yaml"
        run_segnl("train", "--config", config, "--run", run, "--set", f"train.seed={args.seed}")
        result = {"head": head, "config": config, "seed": args.seed, **scores(ROOT / "checkpoints" / run)}
        write_atomic(RESULTS / f"{head}-s{args.seed}.json", json.dumps(result, indent=1).encode() + b"\n")


def scores(run: Path) -> dict[str, object]:
    """Returns mIoU and the accuracy on each pair of the validation streets, and the origin of the run."""
    checkpoint = open_checkpoint(run)
    predictor = segnl.load(run)
    data = build_data(predictor.recipe, "val")
    confusion, counts = Confusion(data.table.num_classes), None
    for i in range(len(data)):
        sample = data.read(i)
        predicted = predictor.predict(sample.image)
        confusion.update(predicted, sample.label)
        of_image = pair_counts(predicted, sample.label, data.ambiguous_mask(i), len(PAIRS))  # pairs 2: correct, all
        counts = of_image if counts is None else counts + of_image
    accuracy = counts[:, 0] / counts[:, 1]
    return {
        "steps": checkpoint.step,
        "batch_size": predictor.recipe.train.batch_size,
        "split": "val",
        "num_images": len(data),
        "miou": confusion.miou(),
        "pairs": {pair.name: float(value) for pair, value in zip(PAIRS, accuracy, strict=True)},
        "pairs_mean": float(accuracy.mean()),
        "git": checkpoint.origin["git"],
        "versions": checkpoint.origin["versions"],
        "machine": machine(),
    }


if __name__ == "__main__":
    main()
