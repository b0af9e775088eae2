"""`segnl cost`: parameters, FLOPs, memory and time."""

import argparse
import json
from pathlib import Path

from segnl.cli.arguments import add_config, size_of

HELP = "parameters, FLOPs, memory and time of a recipe's network, its head or its attention"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_config(command)
    command.add_argument("--input", default="769x769", metavar="HxW", help="the image's size (default 769x769)")
    command.add_argument("--module", choices=("attention", "head", "model"), default="model", help="default model")
    command.add_argument("--classes", type=int, metavar="N", help="how many, where the data set's table is not there")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from segnl.core.files import write_atomic
    from segnl.profiling.cost import cost
    from segnl.runs.recipe import load_recipe

    recipe = load_recipe(args.config, args.overrides)
    found = cost(recipe, hw=size_of(args.input), part=args.module, num_classes=args.classes)
    print("\n".join(found.lines()))
    if args.json is not None:
        write_atomic(args.json, json.dumps(found.to_dict(), indent=1).encode())
    return 0
