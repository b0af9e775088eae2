"""Generate a synthetic data set."""

import argparse

from segnl.cli.arguments import add_count, path_of, size_of
from segnl.core.limits import MAX_SEED


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    kinds = command.add_subparsers(metavar="DATASET", required=True)
    streets = kinds.add_parser("streets", help="procedural street scenes in Cityscapes' layout (docs/streets.md)")
    streets.add_argument("--out", type=path_of, required=True, metavar="DIR", help="folder of the data set")
    add_count(streets, "--train", 400, "training images", most=1_000_000)
    add_count(streets, "--val", 100, "validation images", most=1_000_000)
    streets.add_argument(
        "--hw", type=size_of, default="256x512", metavar="HxW", help="rows x columns (default 256x512)"
    )
    add_count(streets, "--frames", 1, "clips of N frames; 1: images", most=9)
    add_count(streets, "--seed", 0, "seed of the streets", least=0, most=MAX_SEED)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.core.progress import Progress
    from segnl.streets.files import generate

    with Progress("streets", args.train + args.val, unit="image") as progress:
        made = generate(
            args.out,
            num_train=args.train,
            num_val=args.val,
            hw=args.hw,
            seed=args.seed,
            num_frames=args.frames,
            progress=lambda done, total: progress.advance(),
        )
    kind = "streets" if args.frames == 1 else f"clips of {args.frames} frames"
    print(f"{args.out}: {args.train} training and {args.val} validation {kind}, {made} of them made now")
