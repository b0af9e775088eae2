"""Kills one training run again and again, at random moments, and compares its last weights with an uninterrupted one's.

make torture, or ./run.sh bench torture [--kills 100] [--steps 400] [--seed 0]

Every start is the command a user would type (`python train.py ...`), with another number of workers each time; every
kill is SIGKILL to that process, at a random moment between its start and some steps after its resume, so that imports,
loading, steps, validations and checkpoints are all hit. Writes benchmarks/results/torture/kills-N.json.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from segnl.core.environment import git_state, machine, versions
from segnl.core.files import write_atomic
from segnl.core.run_log import read_log
from segnl.runs.checkpoint import checkpoints_of, load_checkpoint, open_checkpoint

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "torture"
# Dropout, batch norm, momentum, EMA, accumulation and clipping: everything that has a state of its own.
RECIPE = """\
model:
  backbone: {{name: resnet, depth: null, block: basic, blocks: [1, 1, 1, 1], width: 0.25, output_stride: 8}}
  head: {{name: rcca, channels: 32}}
  aux: {{channels: 16}}
data: {{name: streets, root: {root}, crop_hw: [64, 96], scale: [0.5, 2.0], workers: 0}}
train:
  {{max_steps: {steps}, batch_size: 4, save_every: 7, eval_every: 25, keep_every: 60, ema: 0.99, accumulate: 2}}
optim: {{name: sgd, lr: 0.02, clip_norm: 1.0}}
schedule: {{name: poly, warmup_steps: 5}}
loss: {{name: cross_entropy}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    args = parser.parse_args()
    began = time.time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = prepare(folder, args.steps)
        whole = run_to_the_end(folder, config, "whole")
        kills = torture(folder, config, args.kills, random.Random(args.seed))
        killed = run_to_the_end(folder, config, "killed")
    is_equal = whole == killed
    result = {
        "complete": True,
        "kills": len(kills),
        "steps": args.steps,
        "seed": args.seed,
        "equal": is_equal,
        "uninterrupted": whole,
        "killed": killed,
        "killed_at_step": kills,
        "seconds": round(time.time() - began),
        "git": git_state(ROOT),
        "machine": machine(),
        "versions": versions(),
    }
    out = RESULTS / f"kills-{len(kills)}.json"
    write_atomic(out, (json.dumps(result, indent=1) + "\n").encode())
    print(f"{len(kills)} kills: weights {'equal' if is_equal else 'DIFFER'}, {whole['sha256'][:16]}; {out}")
    sys.exit(0 if is_equal else 1)


def prepare(folder: Path, steps: int) -> Path:
    """Writes a recipe over newly generated streets; returns its path."""
    command = ["data", "streets", "--out", folder / "streets", "--train", 12, "--val", 4, "--hw", "96x128"]
    subprocess.run([sys.executable, "-m", "segnl", *map(str, command)], cwd=ROOT, check=True)
    config = folder / "torture.yaml"
    config.write_text(RECIPE.format(root=folder / "streets", steps=steps))
    return config


def start(folder: Path, config: Path, run: str, workers: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, ROOT / "train.py", "--config", config, "--run", run, "--set", f"data.workers={workers}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(list(map(str, words)), cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def run_to_the_end(folder: Path, config: Path, name: str) -> dict[str, object]:
    """Trains to the end; returns hashes of all learned state, and the scores."""
    process = start(folder, config, name, workers=1)
    if process.wait() != 0:
        sys.exit(f"{name}: exit code {process.returncode}; its errors are above")
    run = folder / "checkpoints" / name
    newest = open_checkpoint(run)
    digest = hashlib.sha256()
    for kind in (newest.model, newest.optim, newest.ema):
        for tensor in sorted(kind):
            digest.update(tensor.encode() + kind[tensor].numpy().tobytes())
    log = read_log(run / "log.jsonl")
    scores = {line["step"]: line["miou"] for line in log if line.get("event") == "eval"}
    steps = [line["step"] for line in log if "event" not in line]
    return {
        "step": newest.step,
        "sha256": digest.hexdigest(),
        "scores": {str(step): score for step, score in sorted(scores.items())},
        "steps_logged_once_each": steps == list(range(1, newest.step + 1)),
        "best_step": load_checkpoint(run / "best.safetensors").step,
        "kept": [path.stem for path in checkpoints_of(run)],
    }


def torture(folder: Path, config: Path, num_kills: int, chance: random.Random) -> list[int]:
    """Kills `num_kills` starts; returns the steps that the run had reached each time."""
    run, reached = folder / "checkpoints" / "killed", []
    limit = int(config.read_text().partition("max_steps: ")[2].partition(",")[0])
    while len(reached) < num_kills:
        process = start(folder, config, "killed", workers=chance.randrange(3))
        last = newest_step(run)
        # A fifth of the kills fall anywhere in the start; the others some steps after it, and a moment more.
        if chance.random() < 0.2:
            wait(process, lambda: False, chance.uniform(0.0, 6.0))
        else:
            # Progress is what makes the next kill hit other steps: enough for a save, spread over the whole training.
            ahead = chance.randint(1, max(8, 3 * limit // (2 * num_kills)))
            target = min(last + ahead, limit - 1)
            wait(process, lambda target=target: newest_step(run) >= target, 600.0)
            time.sleep(chance.uniform(0.0, 0.2))
        if process.poll() is not None:
            sys.exit(f"the training ended by itself (exit code {process.returncode}) after {len(reached)} kills")
        process.send_signal(signal.SIGKILL)
        process.wait()
        reached.append(newest_step(run))
        print(f"kill {len(reached)} of {num_kills}, at step {reached[-1]}", flush=True)
    return reached


def newest_step(run: Path) -> int:
    return max((line.get("step", 0) for line in read_log(run / "log.jsonl")), default=0)


def wait(process: subprocess.Popen[bytes], is_reached: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and process.poll() is None:
        if is_reached():
            return
        time.sleep(0.02)


if __name__ == "__main__":
    main()
