"""Looks at a folder of images and labels, and decides how a recipe reads it (`segnl new`). Imports no torch."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from shlex import quote

import numpy as np

from segnl.core.archives import archive_of, folders_in, is_file, is_folder
from segnl.core.errors import DataError
from segnl.core.find_files import find_files, name_text
from segnl.core.seeds import seed_for
from segnl.data.annotations import coco, huggingface, labelme, yolo
from segnl.data.annotations.base import AnnotatedImage, Annotations, split_in
from segnl.data.annotations.labels import FOLDER as DRAWN_LABELS
from segnl.data.annotations.labels import is_current, record_of, write_labels
from segnl.data.datasets.ade20k import refuse_full_release
from segnl.data.file_error import FileError
from segnl.data.folder_classes import name_classes, plan_classes
from segnl.data.folder_pairs import Found, find_pairs
from segnl.data.folder_plan import FolderPlan, home_of
from segnl.data.layout import IMAGE_SUFFIXES, SPLIT_WORDS
from segnl.data.mask_files import listed
from segnl.data.reading import image_hw, read_image
from segnl.labels.table import distinct_colour

VAL_FRACTION = 0.2
LISTS = "segnl_splits"


def plan_folder(root: Path, *, seed: int = 0) -> FolderPlan:
    """Decides how `root` is read. seed: of the split into train and val, where the folder has none.

    Raises DataError where no pairs of images and labels are found, saying what is there.
    """
    if not is_folder(root):
        kind = "a file" if root.is_file() else "no such folder"
        raise DataError(f"{root}: {kind}; expected a folder, or a zip archive of one")
    while archive_of(root) and len(folders := folders_in(root)) == 1 and not any(find_files(root, recursive=False)):
        root = root / folders[0]
    own = (root / DRAWN_LABELS, root / huggingface.IMAGES)
    files = [path for path in find_files(root) if not any(path.is_relative_to(folder) for folder in own)]
    refuse_full_release(root, files)
    if any(path.name == "ADE_train_00000001.png" for path in files):
        raise DataError(
            f"{root}: is ADE20K, which has recipes of its own: configs/ade20k/, with --set data.root=FOLDER"
        )
    class_names: Mapping[int, str] = {}
    notes: list[str] = []
    panoptic = [path for path in files if path.suffix == ".json" and "panoptic" in path.name]
    annotations = coco.find(root, files) if panoptic else None  # PNG files of segments look like labels
    if annotations is not None:
        return _plan_annotations(root, annotations, seed)
    try:
        images, labels, data = find_pairs(root, files)
    except DataError:
        copies = huggingface.unpack(root, files)
        if copies is None:
            for annotation_format in (coco, labelme, yolo):
                annotations = annotation_format.find(root, files)
                if annotations is not None:
                    return _plan_annotations(root, annotations, seed)
            raise
        class_names, notes = copies
        files = [path for folder in own for path in find_files(folder)]
        images, labels, data = find_pairs(root, files)
    plan = FolderPlan({"name": "folder", "root": str(root)} | data, home_of(root), notes=notes)
    plan.notes.append(f"images: {_template(data, 'image')}; labels: {_template(data, 'label')}; {len(images)} pairs")
    _note_left_out(plan, root, files, images, labels)
    _plan_splits(plan, root, images, seed)
    plan_classes(plan, root, [labels[sample_id].path for sample_id in sorted(labels)], class_names)
    _plan_size(plan, [images[sample_id].path for sample_id in sorted(images)])
    return plan


def _note_left_out(
    plan: FolderPlan, root: Path, files: Sequence[Path], images: Mapping[str, Found], labels: Mapping[str, Found]
) -> None:
    """Notes pictures that are not read, and those that look like further masks of labels that are."""
    read = {item.path for items in (images, labels) for item in items.values()}
    left_out = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and path not in read]
    if left_out:
        counts = Counter(name_text(str(path.parent.relative_to(root))) for path in left_out).most_common()
        plan.notes.append(
            f"left out: {len(left_out)} pictures without a partner or in other folders "
            f"({listed([f'{count} in {name}' for name, count in counts], limit=5)}); other folders: data.image_folder "
            "and data.label_folder say which are read"
        )
    stems = {item.path.with_suffix("") for item in labels.values()}
    further = [path.name for path in left_out if path.parent / re.sub(r"_\d+$", "", path.stem) in stems]
    if further:
        plan.notes.append(
            f"to do: {listed(further, limit=1)} look like further masks of labels that are read; join them, or their "
            "objects become background"
        )


def _plan_annotations(root: Path, annotations: Annotations, seed: int) -> FolderPlan:
    """Plans labels to be drawn. The splits are lists, since annotations may leave images out."""
    folder = Path(os.path.commonpath([image.path.parent for image in annotations.images]))
    home = home_of(root)
    record = record_of(
        home, root, annotations.files, kind=annotations.kind, classes=annotations.class_names, rule=annotations.rule
    )
    has_labels = is_current(home, record)
    plan = FolderPlan({"name": "folder", "root": str(root), "image_folder": str(folder.relative_to(root))}, home)
    plan.data["label_folder"] = plan.from_root(DRAWN_LABELS)
    plan.notes += [f"annotations: {annotations.kind}, {len(annotations.images)} images", *annotations.notes]
    plan.notes.append(f"drawn: {annotations.rule}")
    images = _split_annotated(plan, root, _by_split(folder, annotations.images), seed)
    colours = [distinct_colour(index) for index in range(len(annotations.class_names))]

    def draw_labels() -> str:
        num_drawn = write_labels(home, record, images, colours)
        return (
            f"wrote {num_drawn} of {len(images)} labels to {home / DRAWN_LABELS}: copies, which do not follow later "
            "changes of the annotations; segnl check and train tell when they are stale"
        )

    plan.draw_labels = draw_labels
    if has_labels and (root / "classes.tsv").is_file():
        plan.notes.append("classes: classes.tsv, which was there")
    else:
        name_classes(plan, list(zip(range(len(colours)), annotations.class_names, colours, strict=True)))
    _plan_size(plan, [image.path for image in images.values()])
    return plan


def _by_split(folder: Path, images: Sequence[AnnotatedImage]) -> dict[str, dict[str, AnnotatedImage]]:
    """Returns the images by split, "" for none, and sample id. Raises DataError for two of one id."""
    by_split: dict[str, dict[str, AnnotatedImage]] = {}
    for image in images:
        sample_id, split = name_text(str(image.path.relative_to(folder).with_suffix(""))), image.split or ""
        if sample_id in by_split.setdefault(split, {}):
            raise DataError(f"{image.path}: two annotations or images are called '{sample_id}'; keep one of them")
        by_split[split][sample_id] = image
    return by_split


def _split_annotated(
    plan: FolderPlan, root: Path, by_split: dict[str, dict[str, AnnotatedImage]], seed: int
) -> dict[str, AnnotatedImage]:
    """Lists the splits train and val, or deals the images of one split; returns the images that are listed.

    Raises DataError for an image in two splits.
    """
    if by_split.get("val", {}).keys() == by_split.get("train", {}).keys():  # data.yaml of a tutorial
        by_split.pop("val", None)
    counts = Counter(sample_id for of_split in by_split.values() for sample_id in of_split)
    doubled = next((sample_id for sample_id, count in counts.items() if count > 1), None)
    if doubled is not None:
        splits = " and ".join(sorted(split or "none" for split in by_split if doubled in by_split[split]))
        raise DataError(f"{root}: '{doubled}' is in splits {splits}; keep it in one")
    if "" in by_split and ("train" in by_split or "val" in by_split):
        without_split = by_split.pop("")
        by_split["train"] = by_split.get("train", {}) | without_split
        plan.notes.append(f"splits: {len(without_split)} images of no split are train")
    if "train" in by_split and "val" in by_split:
        lists = {split: by_split[split] for split in SPLIT_WORDS if split in by_split}
        plan.notes.append("splits: " + ", ".join(f"{split} {len(names)}" for split, names in lists.items()))
        _list_splits(plan, lists)
    else:
        dealt = next(split for split in ("train", "", "val", "test") if split in by_split)
        _deal(plan, by_split[dealt], seed)
        by_split = {split: by_split[split] for split in (dealt, "test") if split in by_split}
        _list_splits(plan, {split: by_split[split] for split in by_split if split != dealt})
    return {sample_id: image for of_split in by_split.values() for sample_id, image in of_split.items()}


def _template(data: Mapping[str, str], kind: str) -> str:
    return f"{data[f'{kind}_folder']}/*{data.get(f'{kind}_suffix', '')}"


def _plan_splits(plan: FolderPlan, root: Path, images: Mapping[str, Found], seed: int) -> None:
    """Takes the splits of the folder's own names or lists; deals the samples where it has none."""
    own = {item.split for item in images.values() if item.split is not None}
    names = {
        name: sorted((spelt for spelt in own if split_in(spelt) == name), key=lambda spelt: (len(spelt), spelt))
        for name in SPLIT_WORDS
    }
    if names["train"] and names["val"]:
        renamed = {name: found[0] for name, found in names.items() if found and found[0] != name}
        plan.data |= {"splits": renamed} if renamed else {}
        counts = Counter(item.split for item in images.values())
        plan.notes.append("splits: " + ", ".join(f"{split} {counts[split]}" for split in sorted(counts, key=str)))
        unread = [f"{counts[split]} in {split}" for found in names.values() for split in found[1:]]
        if unread:
            plan.notes.append(
                f"left out: {listed(unread, limit=5)}; a split is read from one folder: join or rename them"
            )
        return
    only = next((spelt[0] for spelt in names.values() if spelt), None)
    if only is not None:  # train and val are dealt from it
        for kind in ("image_folder", "label_folder"):
            plan.data[kind] = plan.data[kind].replace("{split}", only)
        num_pairs = len(images)
        images = {key: item for key, item in images.items() if item.split == only}
        if num_pairs > len(images):
            plan.notes.append(f"left out: {num_pairs - len(images)} pairs of other splits; only {only} is read")
    for train in find_files(root, recursive=True):
        val = train.with_name("val.txt")
        if train.name == "train.txt" and is_file(val) and "{split}" not in plan.data["image_folder"]:
            plan.data["samples"] = str(PurePosixPath(train.relative_to(root).parent) / "{split}.txt")
            plan.notes.append(f"splits: the lists {plan.data['samples']}")
            return
    _deal(plan, [key.partition(":")[2] for key in images], seed)


def _deal(plan: FolderPlan, sample_ids: Iterable[str], seed: int) -> None:
    """Draws the samples of val, the rest is train."""
    sample_ids = sorted(sample_ids)
    if len(sample_ids) < 2:
        raise DataError(f"{plan.home}: one image with a label; expected two at least, for train and for val")
    order = np.random.default_rng(seed_for(seed, "split")).permutation(len(sample_ids))
    num_val = max(1, round(VAL_FRACTION * len(sample_ids)))
    val, train = ([sample_ids[i] for i in chosen] for chosen in (order[:num_val], order[num_val:]))
    _list_splits(plan, {"val": val, "train": train})
    plan.notes.append(f"splits: none found; {num_val} of {len(sample_ids)} samples are val, drawn with seed {seed}")
    folders = [{sample_id.rpartition("/")[0] for sample_id in split} for split in (val, train)]
    if len(all_folders := folders[0] | folders[1]) > 1 and folders[0] & folders[1]:
        _list_splits(plan, {"all": sample_ids})
        plan.notes.append(
            f"splits: images of {len(folders[0] & folders[1])} folders are in both train and val; if those of a folder "
            "resemble each other, such as frames of a drive, train with --set data.group=folder "
            f"data.samples={quote(plan.from_root(f'{LISTS}/all.txt'))} "
            f"'data.fold={{count: {min(5, len(all_folders))}, number: 0}}'"
        )


def _list_splits(plan: FolderPlan, splits: Mapping[str, Collection[str]]) -> None:
    for split, sample_ids in splits.items():
        if broken := next((name for name in sample_ids if re.search("[\r\n]", name)), None):
            raise DataError(f"{plan.home}: {broken!r}: a list of samples cannot hold a line break; rename the file")
        plan.lists[f"{LISTS}/{split}.txt"] = "".join(f"{sample_id}\n" for sample_id in sorted(sample_ids))
    plan.data["samples"] = plan.from_root(f"{LISTS}/{{split}}.txt")


def _plan_size(plan: FolderPlan, images: Sequence[Path]) -> None:
    """Finds the size of the image in the middle, and whether the recipe can read the first one.

    Raises DataError for images that PIL cannot open, such as those of more than 4 bands.
    """
    try:
        sizes = [image_hw(path) for path in images[:: max(1, len(images) // 100)]]
    except FileError as err:
        advice = "segnl new cannot plan such images: write the recipe by hand (data/README.md)"
        raise DataError(f"{err}; {advice}" if err.kind == "format" else str(err)) from err
    plan.image_hw = sorted(sizes, key=lambda hw: hw[0] * hw[1])[len(sizes) // 2]
    try:
        read_image(images[0])
    except FileError as err:
        plan.notes.append(f"to do: {err} (data/README.md)")
