"""Trains configs/camvid/best.yaml on CamVid's 367 training frames, scores it, and keeps the weights.

./run.sh bench camvid_best --root FOLDER

Resumable. Writes into benchmarks/results/camvid_best/: weights.safetensors (float16, with the recipe inside, for
`segnl eval --checkpoint`) and result.json, whose scores are those of these float16 weights.
"""

import argparse
import json
from pathlib import Path

from camvid import trained
from command import ROOT, run_segnl

from segnl.core.files import write_atomic

FOLDER = ROOT / "benchmarks" / "results" / "camvid_best"
RUN = "camvid-best-s0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the CamVid folder")
    args = parser.parse_args()
    plain = ["--set", "eval.flip=false", "eval.scales=[1.0]"]
    result = trained("configs/camvid/best.yaml", RUN, args.root, [], {"recipe": [], "single": plain})
    weights = ROOT / "checkpoints" / RUN / "half" / "weights.safetensors"  # a folder of its own, for its scores
    scores = weights.with_name("half.json")
    weights.parent.mkdir(exist_ok=True)
    run_segnl("export", "--checkpoint", str(ROOT / "checkpoints" / RUN), "--out", str(weights), "--half")
    run_segnl("eval", "--checkpoint", str(weights), "--json", str(scores))
    write_atomic(FOLDER / "weights.safetensors", weights.read_bytes())
    result["metrics"]["half"] = json.loads(scores.read_text())
    write_atomic(FOLDER / "result.json", json.dumps(result, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
