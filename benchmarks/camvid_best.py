"""Trains one recipe on CamVid's 367 training frames, scores it, and keeps the weights.

./run.sh bench camvid_best --root FOLDER [--config configs/camvid/pretrained.yaml] [--set A.B=C]

Resumable. Writes into benchmarks/results/camvid_CONFIG/: weights.safetensors (float16, with the recipe inside, for
`segnl eval --checkpoint`) and result.json, whose scores are those of these float16 weights.
"""

import argparse
import json
from pathlib import Path

from camvid import trained
from command import ROOT, run_segnl

from segnl.core.files import write_atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the CamVid folder")
    parser.add_argument("--config", default="configs/camvid/best.yaml", help="the recipe")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C", help="for training")
    args = parser.parse_args()
    name = Path(args.config).stem
    run, results = f"camvid-{name}-s0", ROOT / "benchmarks" / "results" / f"camvid_{name}"
    settings = [f"--set={text}" for text in args.overrides]
    plain = ["--set", "eval.flip=false", "eval.scales=[1.0]"]
    result = trained(args.config, run, args.root, settings, {"recipe": [], "single": plain})
    weights = ROOT / "checkpoints" / run / "half" / "weights.safetensors"  # a folder of its own, for its scores
    scores = weights.with_name("half.json")
    weights.parent.mkdir(exist_ok=True)
    run_segnl("export", "--checkpoint", str(ROOT / "checkpoints" / run), "--out", str(weights), "--half")
    run_segnl("eval", "--checkpoint", str(weights), "--json", str(scores))
    write_atomic(results / "weights.safetensors", weights.read_bytes())
    result["metrics"]["half"] = json.loads(scores.read_text())
    write_atomic(results / "result.json", json.dumps(result, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
