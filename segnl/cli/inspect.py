"""One page with images, labels and every network's masks, for any runs."""

import argparse

from segnl.cli.arguments import add_trust_modules, path_of, pixel_of
from segnl.core.errors import ConfigError


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    about = "folders of runs, or checkpoint files"
    add("--checkpoint", nargs="+", type=path_of, required=True, metavar="RUN", help=about)
    add("--out", type=path_of, required=True, metavar="DIR", help="receives report.html and sheet.png")
    add_trust_modules(command)
    add("--split", default="val", help="split of the data set (default val)")
    add("--images", type=int, default=60, metavar="N", help="images on the page (default 60)")
    add(
        "--attention-images",
        type=int,
        metavar="N",
        help="images on the page where a click shows where the networks look; 0: none (default 6)",
    )
    add(
        "--attention",
        type=pixel_of,
        metavar="ROW,COLUMN",
        help="also draw where this pixel looks, as DIR/attention.png",
    )
    add("--image", metavar="ID", help="image of --attention (default: the first one on the page)")
    add("--sheet", type=int, default=8, metavar="N", help="images on sheet.png, one per row (default 8)")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.core.limits import require_count
    from segnl.reports.attention import MAX_IMAGES, NUM_IMAGES
    from segnl.reports.inspect_runs import inspect_runs

    for option, count in (("--images", args.images), ("--sheet", args.sheet)):
        require_count(option, count, most=10_000)
    attention_images = NUM_IMAGES if args.attention_images is None else args.attention_images
    require_count("--attention-images", attention_images, least=0, most=MAX_IMAGES)
    if args.image is not None and args.attention is None:
        raise ConfigError(f"--image {args.image}: needs --attention ROW,COLUMN, the pixel to draw")
    text = inspect_runs(
        args.checkpoint,
        args.out,
        split=args.split,
        num_images=args.images,
        sheet=args.sheet,
        attention_images=attention_images,
        pixel=args.attention,
        sample_id=args.image,
        trust_modules=args.trust_modules,
    )
    print(text)
