"""Train a recipe, or resume its run."""

import argparse
from pathlib import Path

from segnl.cli.arguments import add_config


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add_config(command)
    add("--run", metavar="NAME", help="folder under checkpoints/ (default DATASET-CONFIG-sSEED)")
    add("--print", dest="only_print", action="store_true", help="show the resolved recipe and stop")
    add("--fresh", action="store_true", help="move an existing run aside and start over")
    add(
        "--extend",
        choices=("continued", "restarted"),
        help="train a finished run up to a larger train.max_steps or train.epochs; continued: with the learning rates "
        "that a run of the new length would have; restarted: the schedule starts over at the old end",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.core.config import dump_yaml
    from segnl.runs.recipe import load_recipe

    recipe = load_recipe(args.config, args.overrides)
    if args.only_print:
        print(dump_yaml(recipe.to_dict()), end="")
        return
    from segnl.core.distributed import process_group
    from segnl.runs.folder import run_folder
    from segnl.training.fit import fit

    with process_group() as group:
        folder = run_folder(recipe, args.config, args.run)
        fit(recipe, folder, fresh=args.fresh, extend=args.extend, group=group)
    if group.is_rank0 and recipe.train.pictures:
        _draw_pictures(folder)


def _draw_pictures(folder: Path) -> None:
    """Draws the finished run's pictures. The run is complete without them, so an error is only a warning."""
    from segnl.core.errors import SegnlError
    from segnl.core.log import log
    from segnl.reports.run_pictures import write_run_pictures

    try:
        print(f"{write_run_pictures(folder)}: curves, crops, predictions and the confusion matrix on one page")
    except SegnlError as err:
        log.warning("no pictures: %s", err)
