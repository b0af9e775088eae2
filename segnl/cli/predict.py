"""Write masks, colour-coded masks and overlays for any images and videos."""

import argparse

from segnl.cli.arguments import add_checkpoint, path_of


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add_checkpoint(command)
    add("images", nargs="+", type=path_of, metavar="IMAGE_OR_DIR", help="also video files")
    add("--out", type=path_of, required=True, metavar="DIR", help="receives ids/, colour/ and overlay/")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.evaluation.predict import predict_files
    from segnl.evaluation.predictor import load

    num_images = predict_files(load(args.checkpoint, trust_modules=args.trust_modules), args.images, args.out)
    print(f"{num_images} masks are under {args.out}: ids/, colour/, overlay/")
