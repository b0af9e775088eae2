"""Generate a synthetic data set."""

import argparse

from segnl.cli.arguments import path_of, size_of


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    kinds = command.add_subparsers(metavar="DATASET", required=True)
    streets = kinds.add_parser("streets", help="procedural street scenes in Cityscapes' layout (docs/streets.md)")
    streets.add_argument("--out", type=path_of, required=True, metavar="DIR", help="folder of the data set")
    streets.add_argument("--train", type=int, default=400, metavar="N", help="training images (default 400)")
    streets.add_argument("--val", type=int, default=100, metavar="N", help="validation images (default 100)")
    streets.add_argument(
        "--hw", type=size_of, default="256x512", metavar="HxW", help="rows x columns (default 256x512)"
    )
    streets.add_argument("--frames", type=int, default=1, metavar="T", help="clips of T frames (default 1: images)")
    streets.add_argument("--seed", type=int, default=0, help="seed of the streets (default 0)")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.core.limits import MAX_SEED, require_count
    from segnl.core.progress import Progress
    from segnl.streets.files import generate

    for option, count in (("--train", args.train), ("--val", args.val)):
        require_count(option, count, most=1_000_000)
    require_count("--seed", args.seed, least=0, most=MAX_SEED)
    require_count("--frames", args.frames, most=9)
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
