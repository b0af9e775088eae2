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
    from segnl.evaluation.score import predict_files

    predict_files(args.checkpoint, args.images, args.out)
    return 0
