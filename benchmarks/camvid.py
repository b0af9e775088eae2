"""Trains the heads on CamVid one after another by their recipes, scores them, and keeps the results.

./run.sh bench camvid --root FOLDER [--heads fcn,aspp] [--seed 0]

Resumable: a finished run is not trained again. Writes benchmarks/results/camvid/HEAD-sSEED.json, from which
benchmarks/pages.py makes docs/results.md.
"""

import argparse
import json
from pathlib import Path

from command import ROOT, run_segnl

from segnl.core.environment import machine
from segnl.core.files import write_atomic
from segnl.core.run_log import read_log
from segnl.runs.checkpoint import open_checkpoint

RESULTS = ROOT / "benchmarks" / "results" / "camvid"
HEADS = ("fcn", "aspp", "non_local", "rcca")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the CamVid folder")
    parser.add_argument("--heads", default=",".join(HEADS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for head in args.heads.split(","):
        write_atomic(
            RESULTS / f"{head}-s{args.seed}.json", json.dumps(train_and_score(head, args), indent=1).encode() + b"\n"
        )


def train_and_score(head: str, args: argparse.Namespace) -> dict[str, object]:
    """Trains one head and scores it without and with flip; returns the content of the result file."""
    settings = ["--set", f"train.seed={args.seed}"]
    evaluations = {"single": [], "flip": ["--set", "eval.flip=true"]}
    return trained(
        f"configs/camvid/{head}_r18.yaml", f"camvid-{head}_r18-s{args.seed}", args.root, settings, evaluations
    )


def trained(
    config: str, run: str, root: Path, settings: list[str], evaluations: dict[str, list[str]]
) -> dict[str, object]:
    """Trains a recipe on the CamVid at `root` and scores it with each of the named settings."""
    run_segnl("train", "--config", config, "--run", run, "--set", f"data.root={root.resolve()}", *settings)
    folder = ROOT / "checkpoints" / run
    metrics = {}
    for name, extra in evaluations.items():
        out = folder / f"{name}.json"
        run_segnl("eval", "--checkpoint", str(folder), "--json", str(out), *extra)
        metrics[name] = json.loads(out.read_text())
    checkpoint = open_checkpoint(folder)
    steps = [line for line in read_log(folder / "log.jsonl") if "data_s" in line]
    seconds = sorted(sum(line[key] for key in ("data_s", "forward_s", "backward_s", "optim_s")) for line in steps)
    return {
        "config": config,
        "seed": checkpoint.recipe["train"]["seed"],
        "steps": steps[-1]["step"],
        "split": "val",
        "runs": 1,
        "train_s": round(sum(seconds)),
        "step_s_median": round(seconds[len(seconds) // 2], 3),
        "metrics": metrics,
        "git": checkpoint.origin["git"],
        "versions": checkpoint.origin["versions"],
        "machine": machine(),
    }


if __name__ == "__main__":
    main()
