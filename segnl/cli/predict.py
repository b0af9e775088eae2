"""`segnl predict`: write masks for any images."""

import argparse
from pathlib import Path

from segnl.cli.arguments import add_checkpoint

HELP = "write masks, colour masks and overlays for any images"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint(command)
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE_OR_DIR")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="receives ids/, colour/ and overlay/")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from segnl.evaluation.predict import predict_files
    from segnl.evaluation.predictor import load

    num_images = predict_files(load(args.checkpoint), args.images, args.out)
    print(f"{num_images} masks are under {args.out}: ids/, colour/, overlay/")
    return 0
