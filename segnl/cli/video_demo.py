"""Train C2D, I3D and C2D with non-local blocks on clips where only a relation of far moments tells the class."""

import argparse
from pathlib import Path

from segnl.cli.arguments import path_of
from segnl.core.limits import require_count


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add("--out", type=path_of, default=Path("out/video_demo"), metavar="DIR", help="default out/video_demo")
    add("--seeds", type=int, default=3, metavar="N", help="runs of each model (default 3)")
    add("--steps", type=int, default=400, metavar="N", help="training steps of a run (default 400)")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.studies.verdicts import pair_verdict
    from segnl.video.demo import MODELS, video_demo

    require_count("--seeds", args.seeds, most=100)
    require_count("--steps", args.steps, least=20, most=1_000_000)
    results = video_demo(args.out, num_seeds=args.seeds, steps=args.steps)
    print("accuracy on new clips; guessing gives 50 %")
    for name in MODELS:
        print(f"  {name:14s}", "  ".join(f"{100 * value:5.1f}" for value in results.accuracy(name)))
    print("differences in points, with 95 % intervals for new seeds and new clips:")
    print("\n".join(f"  {pair_verdict(pair, len(results.pairs))}" for pair in results.pairs))
    print(f"attention across the frames: {results.picture}")
