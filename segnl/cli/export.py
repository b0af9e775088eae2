"""`segnl export`: export to ONNX or safetensors."""

import argparse
from pathlib import Path

from segnl.cli.arguments import add_checkpoint

HELP = "write a trained network as ONNX, or its weights as safetensors"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint(command)
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="model.onnx, or model.safetensors")
    command.add_argument("--half", action="store_true", help="write float16 weights (safetensors only)")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from segnl.convert.export import export

    print("\n".join(export(args.checkpoint, args.out, half=args.half)))
    return 0
