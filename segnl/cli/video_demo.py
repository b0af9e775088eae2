"""Train C2D, I3D and C2D with non-local blocks on clips where only a relation of far moments tells the class."""

import argparse
from pathlib import Path

from segnl.cli.arguments import add_count, path_of
from segnl.core.files import ensure_writable, run_lock


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add("--out", type=path_of, default=Path("out/video_demo"), metavar="DIR", help="default out/video_demo")
    add_count(command, "--seeds", 3, "runs of each model", most=100)
    add_count(command, "--steps", 400, "training steps of a run", least=20, most=1_000_000)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.core.files import write_atomic
    from segnl.core.outputs import marked
    from segnl.reports.chart_style import in_own_style
    from segnl.studies.verdicts import pair_verdict
    from segnl.video.demo import MODELS, PICTURE, attention_picture, video_demo

    ensure_writable(args.out)
    with run_lock(args.out, hint="--out folder"):
        results = video_demo(args.out, num_seeds=args.seeds, steps=args.steps)
    print("accuracy on new clips; guessing gives 50 %")
    for name in MODELS:
        print(f"  {name:14s}", "  ".join(f"{100 * value:5.1f}" for value in results.accuracy(name)))
    print("differences in points, with 95 % intervals for new seeds and new clips:")
    print("\n".join(f"  {pair_verdict(pair, len(results.pairs))}" for pair in results.pairs))
    write_atomic(args.out / PICTURE, marked(in_own_style(attention_picture)(args.out), "video-demo"))
    print(f"attention across the frames: {args.out / PICTURE}")
