"""One page with images, labels and every network's masks, for any runs."""

import argparse

from segnl.cli.arguments import add_count, add_trust_modules, path_of, pixel_of
from segnl.core.errors import ConfigError
from segnl.core.files import ensure_writable, run_lock


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    about = "folders of runs, or checkpoint files"
    add("--checkpoint", nargs="+", type=path_of, required=True, metavar="RUN", help=about)
    add("--out", type=path_of, required=True, metavar="DIR", help="receives report.html and sheet.png")
    add_trust_modules(command)
    add("--split", default="val", help="split of the data set (default val)")
    add_count(command, "--images", 60, "images on the page", most=10_000)
    about = "images on the page where a click shows where the networks look; 0: none"
    add_count(command, "--attention-images", 6, about, least=0, most=100)
    add(
        "--attention",
        type=pixel_of,
        metavar="ROW,COLUMN",
        help="also draw where this pixel looks, as DIR/attention.png",
    )
    add("--image", metavar="ID", help="image of --attention (default: the first one on the page)")
    add_count(command, "--sheet", 8, "images on sheet.png, one per row", most=10_000)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.reports.inspect_runs import inspect_runs

    if args.image is not None and args.attention is None:
        raise ConfigError(f"--image {args.image}: needs --attention ROW,COLUMN, the pixel to draw")
    ensure_writable(args.out)
    with run_lock(args.out, hint="--out folder"):
        text = inspect_runs(
            args.checkpoint,
            args.out,
            split=args.split,
            num_images=args.images,
            sheet=args.sheet,
            attention_images=args.attention_images,
            pixel=args.attention,
            sample_id=args.image,
            trust_modules=args.trust_modules,
        )
    print(text)
