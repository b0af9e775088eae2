"""`segnl eval`: score a trained network."""

import argparse
from pathlib import Path

from segnl.cli.arguments import add_checkpoint, add_set

HELP = "score a trained network on a data set's split"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint(command)
    add_set(command)
    command.add_argument("--split", default="val", help="which part of the data set (default val)")
    command.add_argument(
        "--preset",
        metavar="NAME",
        help="a published protocol: cityscapes-whole, cityscapes-slide, cityscapes-ms, cityscapes-slide-ms, "
        "ade20k-mmseg, ade20k-mmseg-ms or ade20k-csail; --set is laid on it",
    )
    command.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="also write every mask: ids, colour, overlay, error; the same command again goes on with those written",
    )
    command.add_argument(
        "--official", action="store_true", help="Cityscapes: also by cityscapesscripts (needs --masks)"
    )
    command.add_argument(
        "--submission",
        type=Path,
        metavar="FILE.zip",
        help="also pack the masks as the server of Cityscapes or ADE20K takes them; the split needs no labels then",
    )
    command.add_argument(
        "--strata",
        action="store_true",
        help="also where the errors are: near boundaries, in small objects, by row, by distance from the centre (costs "
        "several times what decoding and counting an image do)",
    )
    command.add_argument(
        "--ablate", metavar="WHAT", help="break the attention: gamma0, shuffled or window=R (docs/compare.md)"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="also write metrics.json there")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from segnl.core.distributed import process_group
    from segnl.evaluation.score import score

    with process_group() as group:
        score(
            args.checkpoint,
            split=args.split,
            overrides=args.overrides,
            masks=args.masks,
            json_file=args.json,
            official=args.official,
            submission=args.submission,
            preset=args.preset,
            with_strata=args.strata,
            ablate=args.ablate,
            group=group,
        )
    return 0
