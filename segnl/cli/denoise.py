"""Remove noise from photographs by non-local means, the filter behind the non-local block."""

import argparse

from segnl.cli.arguments import add_count, path_of
from segnl.core.errors import ConfigError

MAX_STRENGTH = 1e6
"""Of pixels within 0..1: above it every weight is the same."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add("images", nargs="+", type=path_of, metavar="IMAGE")
    add("--out", type=path_of, required=True, metavar="DIR", help="receives the results under the images' names")
    add(
        "--strength",
        type=float,
        required=True,
        metavar="S",
        help="in units of the range 0..1; the noise's standard deviation is a good start (0.1)",
    )
    add_count(command, "--patch", 7, "side of the compared patches in pixels, odd", most=255)
    add(
        "--search",
        default="21",
        metavar="N|whole",
        help="side of the square in which pixels are averaged, odd, or the whole image, which is slow (default 21)",
    )
    add("--kernel", choices=("uniform", "gaussian"), default="uniform", help="weights inside a patch")
    add(
        "--centre",
        choices=("self", "max", "none"),
        default="self",
        help="a pixel's own weight: 1, the largest of the others, or 0 (default self)",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.core.limits import require_count
    from segnl.data.denoise import DenoiseSettings, denoise_files

    if args.search != "whole" and not args.search.isdecimal():
        raise ConfigError(f"--search {args.search}: expected an odd number of pixels, or whole")
    if not 0 < args.strength <= MAX_STRENGTH:  # nan is neither
        raise ConfigError(f"--strength {args.strength}: expected a number above 0, at most {MAX_STRENGTH:g}")
    search = None if args.search == "whole" else int(args.search[:9])
    if search is not None:
        require_count("--search", search, most=65_535)
    settings = DenoiseSettings(args.strength, args.patch, search, args.kernel, args.centre)
    denoise_files(args.images, args.out, settings)
    print(f"{len(args.images)} image{'s' if len(args.images) > 1 else ''}: filtered, in {args.out}")
