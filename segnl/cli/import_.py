"""Convert weights of mmsegmentation, CCNet, torchvision or mmaction2 strictly: every weight is used or named."""

import argparse

from segnl.cli.arguments import add_count, add_set, path_of
from segnl.core.errors import ConfigError
from segnl.core.files import shell_word
from segnl.core.log import one_line


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add("file", type=path_of, metavar="FILE", help="the other project's checkpoint")
    add("--from", dest="source", required=True, choices=("mmseg", "ccnet", "torchvision", "mmaction"))
    add("--out", type=path_of, required=True, metavar="FILE", help="the checkpoint to write")
    add(
        "--peer-config",
        dest="source_config",
        type=path_of,
        metavar="FILE",
        help="config file of mmsegmentation or mmaction2, if the checkpoint holds none",
    )
    add_count(command, "--recurrence", 2, "number of criss-cross passes of a CCNet checkpoint", most=256)
    add(
        "--abn",
        choices=("abs", "plain"),
        default="abs",
        help="whether CCNet's in-place batch norm uses abs(weight) (abs) or weight (plain) (default abs)",
    )
    add("--config", type=path_of, metavar="FILE", help="a recipe of the data set; not needed for --from mmaction")
    add_set(command)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.convert.import_checkpoint import ImportSettings, import_checkpoint, import_video

    if args.source == "mmaction":
        if args.config is not None or args.overrides:
            raise ConfigError("--config, --set: a recipe says nothing about a video model; leave them out")
        report = import_video(args.file, args.source_config, args.out)
        print("\n".join([*map(one_line, report.lines()), f"{args.out}: ready; segnl.video.load({str(args.out)!r})"]))
        return
    if args.config is None:
        raise ConfigError(f"--config: missing; --from {args.source} needs a recipe of the data set")
    settings = ImportSettings(args.source, args.source_config, args.recurrence, args.abn)
    report = import_checkpoint(args.file, settings, args.config, args.out, tuple(args.overrides))
    ready = f"{args.out}: ready; segnl eval --checkpoint {shell_word(args.out)}"
    print("\n".join([*map(one_line, report.lines()), ready]))
