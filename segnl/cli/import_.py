"""Convert weights of mmsegmentation, CCNet or torchvision strictly: no missing or unused weight is accepted."""

import argparse
from pathlib import Path

from segnl.cli.arguments import add_config


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add("file", type=Path, metavar="FILE", help="the other project's checkpoint")
    add("--from", dest="source", required=True, choices=("mmseg", "ccnet", "torchvision"))
    add("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write")
    add(
        "--peer-config",
        dest="source_config",
        type=Path,
        metavar="FILE",
        help="mmsegmentation's config file, if its checkpoint holds none",
    )
    add(
        "--recurrence",
        type=int,
        default=2,
        metavar="R",
        help="number of criss-cross passes of a CCNet checkpoint (default 2)",
    )
    add(
        "--abn",
        choices=("abs", "plain"),
        default="abs",
        help="whether CCNet's in-place batch norm uses abs(weight) (abs) or weight (plain) (default abs)",
    )
    add_config(command)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.convert.import_checkpoint import ImportSettings, import_checkpoint
    from segnl.core.limits import require_count

    require_count("--recurrence", args.recurrence, most=256)
    settings = ImportSettings(args.source, args.source_config, args.recurrence, args.abn)
    report = import_checkpoint(args.file, settings, args.config, args.out, tuple(args.overrides))
    print("\n".join([*report.lines(), f"{args.out}: ready; segnl eval --checkpoint {args.out}"]))
