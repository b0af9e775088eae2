"""Look at a folder of images and labels or annotations, and write a recipe that trains on it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from segnl.cli.arguments import add_count, path_of
from segnl.core.errors import ConfigError
from segnl.core.limits import MAX_SEED

if TYPE_CHECKING:
    from segnl.core.config import JSONDict
    from segnl.data.folder_plan import FolderPlan

HEADER = """\
# Written by `segnl new {folder}`. {notes}
# To change: model.head (any of segnl's heads), train.max_steps and batch_size, data.crop_hw and scale.
# model.backbone.weights: imagenet downloads pretrained weights and starts from them; the score is usually much better.
"""
CROP_PX, LARGE_PX, HUGE_PX = 256, 512, 2048


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add(
        "folder",
        type=path_of,
        metavar="FOLDER",
        help="folder, or zip archive of one, with images and labels in any usual layout; or COCO, YOLO, LabelMe, "
        "Hugging Face",
    )
    add("--out", type=path_of, metavar="FILE", help="the recipe (default NAME_OF_FOLDER.yaml, here)")
    add("--head", default="aspp", metavar="NAME", help="context head (default aspp)")
    about = "seed of the split into train and val, used if the folder has none"
    add_count(command, "--seed", 0, about, least=0, most=MAX_SEED)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.core.archives import is_folder
    from segnl.core.config import dump_yaml
    from segnl.core.files import LEFTOVER_AGE_S, not_a_link, read_bytes, remove_leftovers, shell_word, write_text
    from segnl.core.log import one_line
    from segnl.data.find import DATASETS
    from segnl.data.folder_layout import plan_folder
    from segnl.runs.recipe import compose
    from segnl.runs.trust import dotted_names, trust_options

    folder = args.folder.resolve()  # raises for a link to itself
    if ".." not in args.folder.parts:
        folder = args.folder.absolute()  # a link may stand for a name that no recipe can hold
    name = folder.stem if folder.is_file() else folder.name
    out = args.out or Path(f"{name}.yaml")
    _require_new(out)
    plan = plan_folder(folder, seed=args.seed)
    recipe = _recipe(plan, args.head)
    config = compose(recipe, file=str(out))  # refuses an unknown head before anything is written
    for parent in (out.parent, plan.home):
        remove_leftovers(parent, min_age_s=LEFTOVER_AGE_S)
    for file, text in _files(plan).items():
        path = plan.home / file
        if path.parent != plan.home:
            remove_leftovers(not_a_link(path.parent), min_age_s=LEFTOVER_AGE_S)
        is_there = path.exists()
        if (is_there and read_bytes(path) != text.encode()) or (path.is_symlink() and not is_there):
            raise ConfigError(f"{path}: exists with other contents; move it aside, or write a recipe by hand")
        if not is_there:
            write_text(path, text)
        plan.notes.append(f"wrote {path}")
    if plan.draw_labels is not None:
        plan.notes.append(plan.draw_labels())
    train, val = (DATASETS.find("folder")(config.data, split) for split in ("train", "val"))
    notes = f"{len(train)} training and {len(val)} validation images."
    header = HEADER.format(folder=one_line(str(args.folder)), notes=notes)
    _require_new(out)  # looking at the folder takes a while
    write_text(out, header + dump_yaml(recipe))
    print("\n".join([*map(one_line, plan.notes), f"wrote {out}: {notes}", "", "Next:"]))
    config_file = shell_word(out)
    print(f"  segnl check --config {config_file}    # every file, and the pixels of each class")
    print(f"  segnl train --config {config_file} --run {shell_word(name)}")
    run = shell_word(f"checkpoints/{name}") + trust_options(dotted_names(recipe))
    print(f"  segnl eval --checkpoint {run}")
    folder = val.image_folder()
    is_of_images = is_folder(folder) and not val.label_folder().is_relative_to(folder)
    images = [folder] if is_of_images else [val.image_path(i) for i in range(min(3, len(val)))]
    paths = " ".join(shell_word(path) for path in images)
    print(f"  segnl predict --checkpoint {run} {paths} --out {shell_word(f'predicted/{name}')}    # or any images")


def _require_new(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out}: exists already; give another name with --out")


def _recipe(plan: "FolderPlan", head: str) -> "JSONDict":
    """Returns a recipe for images of this size; settings as in configs/folder/_base.yaml."""
    short = min(plan.image_hw)
    crop = max(32, min(CROP_PX, short // 8 * 8))
    zoom = min(1.0, LARGE_PX / short)
    inference: JSONDict = {"mode": "whole"}
    if max(plan.image_hw) > HUGE_PX:
        inference = {"mode": "slide", "window_hw": [1024, 1024], "stride_hw": [768, 768]}
    size, zooms = "x".join(map(str, plan.image_hw)), f"{zoom / 2:.2g} to {2 * zoom:.2g}"
    plan.notes.append(f"size: images of about {size}; crops of {crop}x{crop}, images scaled by {zooms}")
    return {
        "model": {
            "backbone": {"name": "resnet", "depth": 18, "output_stride": 8, "stem": {"kind": "plain"}},
            "head": {"name": head},
            "aux": {"channels": 64, "weight": 0.4},
        },
        "data": plan.data | {"crop_hw": [crop, crop], "scale": [round(zoom / 2, 3), round(2 * zoom, 3)], "workers": 2},
        "train": {"max_steps": 2000, "batch_size": 8, "save_every": 200},
        "optim": {"name": "adamw", "lr": 0.001, "weight_decay": 0.02},
        "schedule": {"name": "poly", "power": 0.9, "warmup_steps": 50},
        "loss": {"name": "cross_entropy"},
        "eval": inference,
    }


def _files(plan: "FolderPlan") -> dict[str, str]:
    """Returns the text of the files for the data set's folder, by name."""
    rows = [f"{index}\t{name}\t{red}\t{green}\t{blue}" for index, name, (red, green, blue) in plan.rows]
    table = {"classes.tsv": "\n".join(["index\tname\tr\tg\tb", *rows]) + "\n"} if rows else {}
    return table | plan.lists
