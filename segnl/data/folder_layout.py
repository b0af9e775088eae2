"""Looks at a folder of images and labels, and decides how a recipe reads it (`segnl new`). Imports no torch."""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from shlex import quote

import numpy as np

from segnl.core import IGNORE
from segnl.core.archives import archive_of, folders_in, is_file, is_folder, text_lines
from segnl.core.config import JSONDict
from segnl.core.errors import DataError
from segnl.core.find_files import find_files, name_text
from segnl.core.seeds import seed_for
from segnl.data.annotations import coco, huggingface, labelme, yolo
from segnl.data.annotations.base import AnnotatedImage, Annotations, split_in
from segnl.data.annotations.labels import FOLDER as DRAWN_LABELS
from segnl.data.annotations.labels import is_current, record_of, write_labels
from segnl.data.datasets.ade20k import refuse_full_release
from segnl.data.datasets.cityscapes import LABEL_END
from segnl.data.layout import IMAGE_SUFFIXES, LABEL_SUFFIXES, SPLIT_WORDS
from segnl.data.mask_files import listed
from segnl.data.reading import FileError, image_hw, palette_colours, read_colours, read_image, read_label
from segnl.labels.table import (
    MAX_CLASSES,
    NAME,
    ONE_CLASS,
    are_grey_levels,
    distinct_colour,
    is_name,
    means_no_class,
    read_tsv,
)

LABEL_WORDS = (
    *("labels", "label", "masks", "mask", "annotations", "annotation", "ann", "anns", "gt", "groundtruth", "target"),
    *("ground_truth", "seg", "segs", "segmentation", "segmentations", "segmentationclass", "targets", "semantic"),
    *("annot", "annotated", "labelled", "labeled", "truth", "truths", "anno", "annos"),
    DRAWN_LABELS,
)
IMAGE_WORDS = (
    *(huggingface.IMAGES, "images", "image", "imgs", "img", "jpegimages", "photos", "frames", "rgb", "input", "inputs"),
    "pictures",
)
LABEL_ENDS = ("_mask", "_masks", "_label", "_labels", "_gt", "_seg", "_segmentation", "_annotation", "_target", "_l")
IMAGE_ENDS = ("_image", "_img", "_rgb", "_sat", "_leftimg8bit")
FOREIGN = {
    ".arrow": "a Hugging Face data set as save_to_disk writes it: write it with to_parquet",
    ".txt": "YOLO labels: these need a data.yaml with names, train and val",
    ".json": "annotations, but neither LabelMe nor COCO with outlines (boxes have none): export masks as PNG instead",
    ".parquet": "a Hugging Face data set without a column of images and one of masks: export these as files",
    **dict.fromkeys(
        (".npy", ".mat", ".nii", ".gz", ".h5", ".dcm", ".xml"), "labels in a form that is not read: export them as PNG"
    ),
    ".zip": "the data itself: segnl new FILE.zip reads it",
}
COLOUR_TABLES = {"class_dict.csv": ",", "labelmap.txt": ":"}
"""Files of names and colours, with their separator."""
VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
VOC_SAMPLE = re.compile(r"20\d\d_\d{6}")
_WORD = re.compile("(?:train|val|test)(?=annot)|[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
"""Words of a folder's name: SegmentationClassPNG, train_masks, trainannot (SegNet's CamVid)."""
_ALL_WORDS = {*LABEL_WORDS, *IMAGE_WORDS}
_INSTANCES = re.compile("instance|object|panoptic", re.IGNORECASE)
MAX_TEMPLATES = 16
MAX_LABELS = 5000
"""Labels that are looked at; of more, that many spread evenly."""
MAX_COLOURS = 64
"""More colours than these in labels are no classes, but the traces of JPEG or of smooth edges."""
VAL_FRACTION = 0.2
LISTS = "segnl_splits"


@dataclass
class FolderPlan:
    """How a recipe reads a folder. data: keys of its section `data`. home: the folder to write into, the folder itself
    or one beside an archive. rows: of classes.tsv (index, name, colour); none where it exists, or where
    `data.label_map` names the classes. lists: text of the split's lists by file. notes: what was decided and why.
    image_hw: rows and columns of the image in the middle.
    """

    data: JSONDict
    home: Path
    rows: list[tuple[int, str, tuple[int, int, int]]] = field(default_factory=list)
    lists: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    image_hw: tuple[int, int] = (0, 0)
    draw_labels: Callable[[], str] | None = None
    """Draws labels from annotations, where the folder has no label images; returns a note. Raises DataError for one
    that cannot be drawn."""


@dataclass(frozen=True)
class _Found:
    """A picture file. template: its folder below the root with `{split}` for the split, without sub-folders, and with
    `*` where several folders are read.
    """

    path: Path
    template: str
    split: str | None
    is_label: bool


_Pairs = tuple[dict[str, _Found], dict[str, _Found], JSONDict]
"""Images and labels by split and sample id, and the keys of `data` that say where they lie."""


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
        images, labels, data = _pairs(root, files)
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
        images, labels, data = _pairs(root, files)
    plan = FolderPlan({"name": "folder", "root": str(root)} | data, _home(root), notes=notes)
    plan.notes.append(f"images: {_template(data, 'image')}; labels: {_template(data, 'label')}; {len(images)} pairs")
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
    _plan_splits(plan, root, images, seed)
    _plan_classes(plan, root, [labels[sample_id].path for sample_id in sorted(labels)], class_names)
    _plan_size(plan, [images[sample_id].path for sample_id in sorted(images)])
    return plan


def _plan_annotations(root: Path, annotations: Annotations, seed: int) -> FolderPlan:
    """Plans labels to be drawn. The splits are lists, since annotations may leave images out."""
    folder = Path(os.path.commonpath([image.path.parent for image in annotations.images]))
    by_split: dict[str, dict[str, AnnotatedImage]] = {}
    for image in annotations.images:
        sample_id, split = name_text(str(image.path.relative_to(folder).with_suffix(""))), image.split or ""
        if sample_id in by_split.setdefault(split, {}):
            raise DataError(f"{image.path}: two annotations or images are called '{sample_id}'; keep one of them")
        by_split[split][sample_id] = image
    home = _home(root)
    record = record_of(
        home, root, annotations.files, kind=annotations.kind, classes=annotations.class_names, rule=annotations.rule
    )
    has_labels = is_current(home, record)
    plan = FolderPlan({"name": "folder", "root": str(root), "image_folder": str(folder.relative_to(root))}, home)
    plan.data["label_folder"] = _from_root(plan, DRAWN_LABELS)
    plan.notes += [f"annotations: {annotations.kind}, {len(annotations.images)} images", *annotations.notes]
    plan.notes.append(f"drawn: {annotations.rule}")
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
    images = {sample_id: image for split in by_split.values() for sample_id, image in split.items()}
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
        _name_classes(plan, list(zip(range(len(colours)), annotations.class_names, colours, strict=True)))
    _plan_size(plan, [image.path for image in images.values()])
    return plan


def _look_at(root: Path, path: Path, *told_by: bool) -> _Found:
    """told_by: the last arguments of `_folder`."""
    template, split, is_label = _folder(path.relative_to(root).parts[:-1], *told_by)
    if is_label is None:
        ends = (*LABEL_ENDS, *IMAGE_SUFFIXES)  # a.jpg.png is the label of a.jpg
        is_label = path.suffix.lower() in LABEL_SUFFIXES and path.stem.lower().endswith(ends)
    return _Found(path, template, split, is_label)


@lru_cache(4096)
def _folder(
    parts: tuple[str, ...], by_words: bool, splits_by_words: bool, is_whole: bool
) -> tuple[str, str | None, bool | None]:
    """Returns the template and the split of a folder, and whether it is called as one of labels or one of images.

    by_words, splits_by_words: a folder such as train_masks or "my images", or uavid_train, is told by the words in its
    name too, the nearest to the file first. is_whole: the template is the whole folder, such as annotations/trimaps.
    """
    words_of = [{part.lower(), *(word.lower() for word in _WORD.findall(part))} for part in parts]
    exact = [i for i, part in enumerate(parts) if part.lower() in _ALL_WORDS]
    told = exact or [i for i, words in enumerate(words_of) if by_words and words & _ALL_WORDS]
    at = [i for i, part in enumerate(parts) if any(part.lower() in words for words in SPLIT_WORDS.values())][:1]
    if not at and splits_by_words:
        own = [i for i, words in enumerate(words_of) if by_words or not words & _ALL_WORDS]
        at = [i for i in own if any(map(split_in, _WORD.findall(parts[i])))][-1:]
    template, split = list(parts), None
    for i in at:  # one at most; of train_images, its train
        split = next(filter(split_in, _WORD.findall(parts[i]))) if words_of[i] & _ALL_WORDS else parts[i]
        template[i] = parts[i].replace(split, "{split}", 1)
    is_label = not words_of[told[-1]].isdisjoint(LABEL_WORDS) if told else None
    depth = len(parts) if is_whole else max((*told, *at), default=-1) + 1
    return str(PurePosixPath(*template[:depth])), split, is_label


def _pairs(root: Path, files: Sequence[Path]) -> _Pairs:
    """Raises DataError for no pairs, saying what is there."""
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    for by_words, is_whole in ((False, False), (True, False), (True, True)):
        found = [
            [_look_at(root, path, by_words, splits_by_words, is_whole) for path in pictures]
            for splits_by_words in (True, False)
        ]
        if is_whole and not all({item.is_label for item in items} == {False, True} for items in found):
            break
        found = found[: 1 + (found[0] != found[1])]
        pairs = max((_paired(root, items) for items in found), key=lambda own: len(own[0]))
        if pairs[0]:
            return pairs
    raise DataError(f"{root}: {_no_pairs(root, files)}")


def _paired(root: Path, found: Sequence[_Found]) -> _Pairs:
    labels = [item for item in found if item.is_label]
    images = [item for item in found if not item.is_label]
    data: JSONDict = {}
    if not labels:  # a.jpg and a.png side by side
        others = Counter(suffix for item in found if (suffix := item.path.suffix.lower()) != ".png")
        labels = [item for item in found if item.path.suffix.lower() == ".png"]
        image_suffix = others.most_common(1)[0][0] if others else ""
        images = [item for item in found if item.path.suffix.lower() == image_suffix]
        data = {"image_suffix": image_suffix, "label_suffix": ".png"}
    joined = _with_wildcards(images), _with_wildcards(labels)
    candidates = [_of_two_templates(root, *items) for items in ((images, labels), joined)]
    *pairs, layout = max(candidates, key=lambda own: len(own[0]))
    return pairs[0], pairs[1], data | layout


def _with_wildcards(items: Sequence[_Found]) -> list[_Found]:
    """Gives the files of cam1/images, cam2/images ... the template */images."""
    alike: dict[tuple[str, ...], list[list[str]]] = {}
    for parts in (template.split("/") for template in sorted({item.template for item in items})):
        above = (part if "{split}" in part else "*" for part in parts[:-1])
        alike.setdefault((*above, parts[-1]), []).append(parts)
    joined = {
        "/".join(parts): "/".join(names[0] if len({*names}) == 1 else "*" for names in zip(*group, strict=True))
        for group in alike.values()
        for parts in group
    }
    return [replace(item, template=joined[item.template]) for item in items]


def _of_two_templates(root: Path, images: Sequence[_Found], labels: Sequence[_Found]) -> _Pairs:
    """Pairs the images and labels of the two templates, and ends of stems, that have most sample ids in common.

    Of several, labels of ids are before colours, and instances last.
    """
    images_by, labels_by = _by_template(images, IMAGE_ENDS, root), _by_template(labels, LABEL_ENDS, root)
    common = {(a, b): images_by[a].keys() & labels_by[b].keys() for a in images_by for b in labels_by}
    most = max(map(len, common.values()), default=0)
    if not most:
        return {}, {}, {}

    def rank(keys: tuple[_Key, _Key]) -> tuple[bool, int]:
        try:
            label = read_label(next(iter(labels_by[keys[1]].values())).path, max_id=65_535, allow_colours=True)
        except FileError:
            return True, 0
        return bool(_INSTANCES.search(keys[1][0])), label.ndim

    tied = [keys for keys, sample_ids in common.items() if len(sample_ids) == most]
    best = min(tied, key=rank) if len({label for _, label in tied}) > 1 else tied[0]
    data: JSONDict = {}
    for kind, (template, end) in zip(("image", "label"), best, strict=True):
        data |= {f"{kind}_folder": template} | ({f"{kind}_suffix": end} if end else {})
    image_of, label_of = images_by[best[0]], labels_by[best[1]]
    return {key: image_of[key] for key in common[best]}, {key: label_of[key] for key in common[best]}, data


_Key = tuple[str, str]
"""A template, and what the stems end in after the sample id, as it is written there."""


def _by_template(items: Sequence[_Found], ends: Sequence[str], root: Path) -> dict[_Key, dict[str, _Found]]:
    """Returns the files by template and end, then by sample id, of the templates that most have."""
    templates = {template for template, _ in Counter(item.template for item in items).most_common(MAX_TEMPLATES)}
    out: dict[_Key, dict[str, _Found]] = {}
    for item in items:
        if item.template not in templates:
            continue
        template, parts = PurePosixPath(item.template).parts, item.path.relative_to(root).parts
        names = [part for part, own in zip(parts, template, strict=False) if own == "*"]
        stem = name_text(f"{item.split or ''}:{PurePosixPath(*names, *parts[len(template) :]).with_suffix('')}")
        for end in ("", *(end for end in ends if stem.lower().endswith(end))):
            own = stem[len(stem) - len(end) :]
            out.setdefault((item.template, own), {})[stem.removesuffix(own)] = item
        if item.is_label and (suffix := PurePosixPath(stem).suffix).lower() in IMAGE_SUFFIXES:
            key = item.template, suffix + item.path.suffix
            out.setdefault(key, {})[stem.removesuffix(suffix)] = item
    return out


def _no_pairs(root: Path, files: Sequence[Path]) -> str:
    for path in files:
        if path.suffix.lower() in (".jpg", ".jpeg") and path.stem.lower().endswith(LABEL_ENDS[:-1]):
            return f"{path.name} looks like a label, but JPEG changes the values that it stores; export labels as PNG"
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    example = {found.is_label: path for path in pictures if (found := _look_at(root, path, True, True, False))}
    if len(example) == 2:
        image, label = (name_text(str(example[is_label].relative_to(root))) for is_label in (False, True))
        return (
            f"no image and label share a name: images such as {image}, labels such as {label}; rename them; only an "
            "end such as _mask may differ"
        )
    for suffix, advice in FOREIGN.items():
        of_kind = [path for path in files if path.suffix.lower() == suffix]
        if suffix == ".txt":  # YOLO's
            of_kind = [path for path in of_kind if "labels" in (path.parent.name, path.parent.parent.name)]
        if of_kind:
            return f"holds {suffix} files, perhaps {advice}"
    if any(path.name.endswith(LABEL_END) for path in files):
        return "is Cityscapes, which has recipes of its own: configs/cityscapes/, with --set data.root=FOLDER"
    suffixes = Counter(path.suffix.lower() or path.name for path in files).most_common(3)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes) or "no files"
    folders = sorted({name_text(str(path.parent.relative_to(root))) for path in files} - {"."})
    where = f" in {listed(folders, limit=6)}" if folders else ""
    return (
        f"no pairs of images and labels ({kinds}{where}); expected folders such as images/ and labels/, or names such "
        "as a.jpg and a_mask.png; else write a recipe with data.image_folder, label_folder and label_suffix "
        "(data/README.md)"
    )


def _template(data: Mapping[str, str], kind: str) -> str:
    return f"{data[f'{kind}_folder']}/*{data.get(f'{kind}_suffix', '')}"


def _plan_splits(plan: FolderPlan, root: Path, images: Mapping[str, _Found], seed: int) -> None:
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
            f"data.samples={quote(_from_root(plan, f'{LISTS}/all.txt'))} "
            f"'data.fold={{count: {min(5, len(all_folders))}, number: 0}}'"
        )


def _list_splits(plan: FolderPlan, splits: Mapping[str, Collection[str]]) -> None:
    for split, sample_ids in splits.items():
        if broken := next((name for name in sample_ids if re.search("[\r\n]", name)), None):
            raise DataError(f"{plan.home}: {broken!r}: a list of samples cannot hold a line break; rename the file")
        plan.lists[f"{LISTS}/{split}.txt"] = "".join(f"{sample_id}\n" for sample_id in sorted(sample_ids))
    plan.data["samples"] = _from_root(plan, f"{LISTS}/{{split}}.txt")


def _plan_classes(plan: FolderPlan, root: Path, labels: Sequence[Path], class_names: Mapping[int, str]) -> None:
    """Finds the kind of the labels, and writes the rows of classes.tsv, or a label map for colours."""
    labels = labels[:: -(-len(labels) // MAX_LABELS)]
    palette = _palette(labels)
    is_coloured = read_label(labels[0], max_id=65_535, allow_colours=True).ndim == 3
    if palette is None:
        plan.notes.append("labels: palettes differ from file to file, so their colours are the classes")
        is_coloured = True
    if is_file(root / "classes.tsv"):
        _use_table(plan, root, labels, is_coloured=is_coloured)
        return
    known = _named_colours(root)
    if is_coloured:
        colours = _colours(labels, root)
        is_grey = all(len({*colour}) == 1 for colour in colours)
        unnamed = [f"class_{colour[0]}" if is_grey else f"colour_{bytes(colour).hex()}" for colour in colours]
        if not is_grey and not any(colours[0]):
            unnamed[0] = "background"
        if len(colours) == 2 and not any(colours[0]):
            unnamed = ["background", "foreground"]
        names = [known.get(colour, name) for colour, name in zip(colours, unnamed, strict=True)]
        is_own = [names.count(name) == 1 or means_no_class(name) for name in names]
        names = [name if own else f"{name}_{i}" for i, (name, own) in enumerate(zip(names, is_own, strict=True))]
        ignored = _ignored(plan, names, "data.label_map")
        rank = {colour: number for number, colour in enumerate(known)}
        rows_of_file = sorted(zip(names, colours, strict=True), key=lambda row: rank.get(row[1], len(rank)))
        label_map: dict[str, list[str]] = {}
        for name, colour in rows_of_file:
            own = "ignore" if name in ignored else "ignored" if name == "ignore" else name
            label_map.setdefault(own, []).append(f"#{bytes(colour).hex()}")
        plan.data["label_map"] = label_map
        names = [name for name in plan.data["label_map"] if name != "ignore"]
        plan.notes.append(f"labels: RGB, {len(colours)} colours")
        plan.notes.append(f"classes: {listed(names, limit=6)}; rename and join them in data.label_map")
        return
    ids_of = _ids(labels)
    ids = sorted(set().union(*ids_of))
    is_binary = len(ids) == 2 and ids[1] == IGNORE
    is_scale = are_grey_levels(ids)
    if IGNORE in ids and not is_binary and not is_scale:
        if len([file_id for file_id in ids if 192 <= file_id < IGNORE]) > 2:
            raise DataError(
                f"{root}: the labels hold {len(ids)} values up to 255; expected one for each class. Were they saved as "
                "JPEG, or resized with smooth edges? Otherwise name the classes in classes.tsv (index, name, r, g, b)"
            )
        ids.remove(IGNORE)
        without = sum(own == {0, IGNORE} for own in ids_of)
        where = f" ({without} of {len(labels)} labels hold 0 and 255 only)" if without else ""
        plan.notes.append(f"ignored: 255{where}; if it is a class, add it to classes.tsv")
    if len(ids) < 2:
        raise DataError(f"{root}: the labels hold {ids or 'nothing'} only; expected two classes at least")
    if ids[-1] > IGNORE:
        _require_class_count(root, len(ids))
        plan.data["label_map"] = {f"class_{i}": [i] for i in ids}
        plan.notes.append(f"labels: 16-bit ids {ids[0]}..{ids[-1]}; rename and join the {len(ids)} in data.label_map")
        return
    rows: list[tuple[int, str, tuple[int, int, int]]] = []
    own_colours = {i: colour for i, colour in (palette or {}).items() if i in ids}
    by_colour = {i: known[colour] for i, colour in own_colours.items() if colour in known}
    is_voc = ids[-1] < len(VOC_NAMES) and all(VOC_SAMPLE.fullmatch(path.stem) for path in labels)
    named = next((names for names in (class_names, by_colour) if set(ids) <= names.keys()), None)
    if named is not None:
        names = [named[file_id] for file_id in ids]
    elif is_voc and all(colour == distinct_colour(i) for i, colour in own_colours.items()):
        names = [VOC_NAMES[file_id] for file_id in ids]
    else:
        names = _names(plan, root, ids, [*known.values()], is_binary=is_binary or ids == [0, 1])
    ignored = _ignored(plan, names, "data.ignore_ids")
    if ignored:
        plan.data["ignore_ids"] = [file_id for file_id, name in zip(ids, names, strict=True) if name in ignored]
    for file_id, name in zip(ids, names, strict=True):
        if name in ignored:
            continue
        rows.append((file_id, name, own_colours.get(file_id, distinct_colour(file_id))))
    kind = "grey levels, a class each" if is_binary or is_scale else "class ids"
    plan.notes.append(f"labels: {kind}: {listed([*map(str, ids)], limit=12)}")
    _name_classes(plan, rows)


def _ignored(plan: FolderPlan, names: Sequence[str], key: str) -> list[str]:
    """Returns the names that mean no class, such as void, where two classes are left without them."""
    ignored = [*filter(means_no_class, names)]
    if not ignored or len(names) < len(ignored) + 2:
        return []
    plan.notes.append(f"ignored: {', '.join(map(repr, ignored))} ({key})")
    return ignored


def _name_classes(plan: FolderPlan, rows: list[tuple[int, str, tuple[int, int, int]]]) -> None:
    """Puts the classes into classes.tsv; for an archive, into which nothing is written, into the recipe."""
    rows = [(file_id, " ".join(name.split()), colour) for file_id, name, colour in rows]
    names = [name for _, name, _ in rows]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{plan.home}: two classes are called '{doubled}', but for spaces; give each its own name")
    if odd := [name for name in names if not is_name(name)]:
        raise DataError(f"{plan.home}: a class is called {odd[0]!r:.60}; give it {NAME}")
    _require_class_count(plan.home, len(names))
    where = "classes.tsv"
    if plan.home == Path(plan.data["root"]):
        plan.rows = rows
    else:
        where = "data.label_map"
        plan.data["label_map"] = {name: [file_id] for file_id, name, _ in rows}
    plan.notes.append(f"classes: {listed(names, limit=6)}; rename them in {where}")


def _require_class_count(root: Path, count: int) -> None:
    if not 2 <= count <= MAX_CLASSES:
        advice = ONE_CLASS if count < 2 else "join some, or ignore them"
        raise DataError(f"{root}: has {count} classes; expected 2 to {MAX_CLASSES}: {advice}")


def _home(root: Path) -> Path:
    """Returns the folder to write into: the folder itself, or NAME_segnl beside NAME.zip."""
    archive = archive_of(root)
    return root if archive is None else archive.with_name(f"{archive.stem}_segnl")


def _from_root(plan: FolderPlan, name: str) -> str:
    return name if plan.home == Path(plan.data["root"]) else str(plan.home / name)


def _use_table(plan: FolderPlan, root: Path, labels: Sequence[Path], *, is_coloured: bool) -> None:
    """Takes the classes of the folder's own classes.tsv; ids and colours that it does not name are ignored."""
    rows = read_tsv(root / "classes.tsv")
    plan.notes.append("classes: classes.tsv, which was there")
    if is_coloured:
        plan.data["label_map"] = {row.name: [f"#{bytes(row.colour).hex()}"] for row in rows}
        unknown = sorted({*_colours(labels, root)} - {row.colour for row in rows})
        if unknown:
            plan.data["label_map"]["ignore"] = "rest"
        names = [f"#{bytes(colour).hex()}" for colour in unknown]
    else:
        unknown_ids = sorted(set().union(*_ids(labels)) - {row.file_id for row in rows} - {IGNORE})
        if unknown_ids:
            plan.data["ignore_ids"] = unknown_ids
        names = [str(file_id) for file_id in unknown_ids]
    if names:
        text = listed(names, limit=12)
        plan.notes.append(f"ignored: {text}, which classes.tsv does not name; add what should be a class")


def _palette(labels: Sequence[Path]) -> dict[int, tuple[int, int, int]] | None:
    """Returns the colour of each index that labels hold; None where their palettes differ about one."""
    palette: dict[int, tuple[int, int, int]] = {}
    for path in labels:
        for index, colour in palette_colours(path).items():
            if palette.setdefault(index, colour) != colour:
                return None
    return palette


def _ids(labels: Sequence[Path]) -> list[set[int]]:
    """Returns the ids of each label."""
    return [set(np.unique(read_label(path, max_id=65_535)).tolist()) for path in labels]


def _colours(labels: Sequence[Path], root: Path) -> list[tuple[int, int, int]]:
    colours: set[int] = set()
    for path in labels:
        pixels = read_colours(path).astype(np.uint32)
        colours |= set(np.unique(pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]).tolist())
        if len(colours) > MAX_COLOURS:
            raise DataError(
                f"{path}: with the labels before it, more than {MAX_COLOURS} colours; expected one for each class. "
                "Were the labels saved as JPEG, or with smooth edges?"
            )
    if len(colours) < 2:
        raise DataError(f"{root}: the labels hold one colour only; expected two classes at least")
    return [(c >> 16, c >> 8 & 255, c & 255) for c in sorted(colours)]


def _named_colours(root: Path) -> dict[tuple[int, int, int], str]:
    """Reads names of colours from class_dict.csv (name, r, g, b) or labelmap.txt (name:r,g,b::), where there is one."""
    out: dict[tuple[int, int, int], str] = {}
    for name, separator in COLOUR_TABLES.items():
        path = root / name
        try:
            rows = list(csv.reader(_lines(path), delimiter=separator))
        except csv.Error as err:
            raise FileError(path, "format", f"{err}; expected a colour and its class a line, quotes closed") from err
        for row in rows:
            cells = [row[0], *row[1].split(",")] if separator == ":" and len(row) > 1 else row
            numbers = [cell.strip() for cell in cells[1:4]]
            if len(numbers) == 3 and all(number.isdecimal() and len(number) < 4 for number in numbers):
                if not cells[0].strip():
                    raise FileError(path, "format", f"{','.join(row)!r}: a class has an empty name; give it one")
                red, green, blue = map(int, numbers)
                out[red, green, blue] = cells[0].strip()
    return out


def _names(plan: FolderPlan, root: Path, ids: Sequence[int], of_colours: list[str], *, is_binary: bool) -> list[str]:
    """Returns a name for each id: of id2label.json or _classes.csv, of codes.txt or classes.txt with one a line for
    each id, or of a table of colours with as many rows.
    """
    try:
        pairs = json.loads("\n".join(_lines(root / "id2label.json")) or "{}", object_pairs_hook=list)
        named = {int(key): " ".join(str(name).split()) for key, name in pairs}
        if len(named) < len(pairs):
            raise ValueError("an id stands twice")
    except (ValueError, TypeError, RecursionError) as err:
        plan.notes.append(f"classes: id2label.json is not used: {err}")
        named = {}
    for path in () if named else [path for path in find_files(root) if path.name == "_classes.csv"]:  # Roboflow's
        cells = [line.partition(",") for line in _lines(path)]
        named |= {int(number): name.strip() for number, _, name in cells if re.fullmatch(r" *\d{1,5} *", number)}
    if set(ids) <= named.keys() and len({named[file_id] for file_id in ids}) == len(ids):
        return [named[file_id] for file_id in ids]
    for name in ("codes.txt", "classes.txt", "class_names.txt", "names.txt"):
        lines = [" ".join(line.split()) for line in "\n".join(_lines(root / name)).strip().split("\n")]
        nameless = next((i for i, line in enumerate(lines, 1) if not line or line.startswith("#")), 0)
        if not nameless and len(set(lines)) == len(lines) > ids[-1]:
            if len(lines) > len(ids):
                rest = f"{len(lines) - len(ids)} of {len(lines)} names in {name}"
                plan.notes.append(f"classes: {rest} occur in no label; add them to classes.tsv to predict them")
            return [lines[file_id] for file_id in ids]
        if lines != [""]:
            is_doubled = len(set(lines)) < len(lines)
            reason = "a name stands twice" if is_doubled else f"{len(lines)} names for ids to {ids[-1]}"
            reason = f"line {nameless} holds no name" if nameless else reason
            plan.notes.append(f"classes: {name} is not used: {reason}")
    if len(of_colours) == ids[-1] + 2 and means_no_class(of_colours[-1]):
        del of_colours[-1]
    if len({*of_colours}) == len(of_colours) == ids[-1] + 1:
        return [of_colours[file_id] for file_id in ids]
    if of_colours:
        name = next(name for name in COLOUR_TABLES if is_file(root / name))
        plan.notes.append(f"classes: {name} is not used: {len(of_colours)} rows for ids to {ids[-1]}")
    return ["background", "foreground"] if is_binary else [f"class_{file_id}" for file_id in ids]


def _lines(path: Path) -> list[str]:
    """Returns the lines of a text file; none where there is no such file."""
    return text_lines(path, "names of classes") if is_file(path) else []


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
