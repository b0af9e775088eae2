"""Score masks from any toolkit: the exact mIoU, and what other projects' code prints for the same masks."""

import argparse
import hashlib
import shutil
from dataclasses import fields

from segnl.cli.arguments import add_json, path_of
from segnl.core.files import ensure_writable, write_together
from segnl.core.outputs import json_file, marked, require_own


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add(
        "predictions",
        type=path_of,
        metavar="PREDICTIONS",
        help="a folder of masks (PNG of class ids or of the table's colours, or NumPy), an .npz with an array per "
        "sample id, or COCO's JSON (panoptic or RLE)",
    )
    add(
        "--labels",
        type=path_of,
        required=True,
        metavar="DIR",
        help="the ground truth, in any form listed under PREDICTIONS",
    )
    add(
        "--classes",
        required=True,
        metavar="FILE",
        help="the class table: index, name, r, g, b (or only index, name), separated by tabs; or ultralytics' "
        "data.yaml; or cityscapes (labelIds), cityscapes-train (labelTrainIds), ade20k (0..150), or ade20k-train "
        "(0..149 and 255)",
    )
    add(
        "--ignore",
        dest="ignore_ids",
        type=int,
        action="append",
        default=[],
        metavar="ID",
        help="ids that stand for no class, so that pixels labelled so are not scored, such as --ignore 0 11; "
        "255 is always ignored unless the table names it",
    )
    add(
        "--prediction-ids",
        choices=("file", "train"),
        default="file",
        help="ids in the predictions: those of the label files (default), or train ids 0, 1, 2 ... in the order of the "
        "class table",
    )
    add("--label-suffix", default="", metavar="TEXT", help="take these label files only, such as _gtFine_labelIds.png")
    add("--prediction-suffix", default="", metavar="TEXT", help="the same for predictions")
    add("--label-prefix", default="", metavar="TEXT", help="the beginning of their names, such as frame_")
    add("--prediction-prefix", default="", metavar="TEXT", help="the same for predictions")
    add(
        "--foreground",
        dest="foreground_id",
        type=int,
        metavar="ID",
        help="binary masks: the id that stands for the second class of the table, in labels and predictions, such as "
        "255 for masks of 0 and 255",
    )
    add(
        "--resize",
        action="store_true",
        help="resize masks of another size than their label, but of its aspect ratio, instead of stopping",
    )
    add(
        "--published",
        metavar="SCORE",
        help="a score from a paper or a log, such as 0.712 or 71.2: find the definitions or classes that it fits",
    )
    about = "write the numbers there, and beside it a page (.html) and every image's counts (.counts.npz)"
    add_json(command, about)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.evaluation.score_masks import ScoreRequest, score_masks
    from segnl.metrics.scored_counts import counts_bytes, counts_path
    from segnl.reports.score_page import score_page
    from segnl.reports.score_text import score_text

    if args.json is not None:
        ensure_writable(args.json.parent)
        for path in (args.json.with_suffix(".html"), counts_path(args.json)):
            require_own(path, "score", option="--json")
    score = score_masks(ScoreRequest(**{field.name: getattr(args, field.name) for field in fields(ScoreRequest)}))
    if args.json is not None:
        counts, page = counts_path(args.json), args.json.with_suffix(".html")
        packed = marked(counts_bytes(score.scored_counts()), "score")
        files = {
            counts: packed,
            page: marked(score_page(score), "score"),
            args.json: json_file(score.to_dict() | {"counts_sha256": hashlib.sha256(packed).hexdigest()}, "score"),
        }
        write_together(files)
    width = min(120, shutil.get_terminal_size((120, 40)).columns)
    print(score_text(score, width=width, writes_page=args.json is not None))
    if args.json is None:
        return
    print(f"\n{args.json}: these numbers\n{page}: the page (opens in any browser, from disk)")
    print(f"{counts}: the counts of every image, for segnl compare")
