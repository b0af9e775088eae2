"""Finds pairs of images and labels in a folder of any usual layout, by words and ends of names. Imports no torch."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path, PurePosixPath

from segnl.core.config import JSONDict
from segnl.core.errors import DataError
from segnl.core.find_files import name_text
from segnl.data.annotations import huggingface
from segnl.data.annotations.base import split_in
from segnl.data.annotations.labels import FOLDER as DRAWN_LABELS
from segnl.data.datasets.cityscapes import LABEL_END
from segnl.data.file_error import FileError
from segnl.data.layout import IMAGE_SUFFIXES, LABEL_SUFFIXES, SPLIT_WORDS
from segnl.data.mask_files import listed
from segnl.data.reading import read_label

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
_WORD = re.compile("(?:train|val|test)(?=annot)|[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
"""Words of a folder's name: SegmentationClassPNG, train_masks, trainannot (SegNet's CamVid)."""
_KIND_WORDS = {*LABEL_WORDS, *IMAGE_WORDS}
_SPLIT_WORDS = {*chain(*SPLIT_WORDS.values())}
_INSTANCES = re.compile("instance|object|panoptic", re.IGNORECASE)
MAX_TEMPLATES = 16


@dataclass(frozen=True)
class Found:
    """A picture file. template: its folder below the root with `{split}` for the split, without sub-folders, and with
    `*` where several folders are read.
    """

    path: Path
    template: str
    split: str | None
    is_label: bool


Pairs = tuple[dict[str, Found], dict[str, Found], JSONDict]
"""Images and labels by split and sample id, and the keys of `data` that say where they lie."""


@dataclass(frozen=True)
class _Rule:
    """How folders are read. By all rules, masks/ holds labels and train/ is a split.

    kinds_in_names: train_masks holds labels too, as any folder whose name has such a word.
    splits_in_names: uavid_train is of the split train too.
    is_whole: the template is the whole folder, such as annotations/trimaps, and not its part up to the last word.
    """

    kinds_in_names: bool = False
    splits_in_names: bool = False
    is_whole: bool = False


RULES = (
    (_Rule(splits_in_names=True), _Rule()),
    (_Rule(kinds_in_names=True, splits_in_names=True), _Rule(kinds_in_names=True)),
    (_Rule(kinds_in_names=True, splits_in_names=True, is_whole=True), _Rule(kinds_in_names=True, is_whole=True)),
)
"""In this order, until one finds pairs; of two, the one that finds more is taken, the first where both find as many."""


def find_pairs(root: Path, files: Sequence[Path]) -> Pairs:
    """Returns the pairs of the first rule that finds any. Raises DataError for no pairs, saying what is there."""
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    for rules in RULES:
        readings = [[_look_at(root, path, rule) for path in pictures] for rule in rules]
        if rules[0].is_whole and not all({item.is_label for item in items} == {False, True} for items in readings):
            break
        distinct = readings[: 1 + (readings[0] != readings[1])]
        pairs = max((_paired(root, items) for items in distinct), key=lambda own: len(own[0]))
        if pairs[0]:
            return pairs
    raise DataError(f"{root}: {_no_pairs(root, files)}")


def _look_at(root: Path, path: Path, rule: _Rule) -> Found:
    """Returns what the names of a picture and of its folders say about it."""
    template, split, is_label = _folder(path.relative_to(root).parts[:-1], rule)
    if is_label is None:
        ends = (*LABEL_ENDS, *IMAGE_SUFFIXES)  # a.jpg.png is the label of a.jpg
        is_label = path.suffix.lower() in LABEL_SUFFIXES and path.stem.lower().endswith(ends)
    return Found(path, template, split, is_label)


@lru_cache(4096)
def _folder(parts: tuple[str, ...], rule: _Rule) -> tuple[str, str | None, bool | None]:
    """Returns the template and the split of a folder, and whether it is called as one of labels or one of images."""
    words = [{part.lower(), *(word.lower() for word in _WORD.findall(part))} for part in parts]
    kinds = [i for i, part in enumerate(parts) if part.lower() in _KIND_WORDS]
    if not kinds and rule.kinds_in_names:
        kinds = [i for i, own in enumerate(words) if own & _KIND_WORDS]
    splits = [i for i, part in enumerate(parts) if part.lower() in _SPLIT_WORDS][:1]
    if not splits and rule.splits_in_names:
        may_name = [i for i, own in enumerate(words) if rule.kinds_in_names or not own & _KIND_WORDS]
        splits = [i for i in may_name if any(map(split_in, _WORD.findall(parts[i])))][-1:]
    template, split = list(parts), None
    for i in splits:  # one at most; of train_images, its train
        split = next(filter(split_in, _WORD.findall(parts[i]))) if words[i] & _KIND_WORDS else parts[i]
        template[i] = parts[i].replace(split, "{split}", 1)
    is_label = not words[kinds[-1]].isdisjoint(LABEL_WORDS) if kinds else None
    depth = len(parts) if rule.is_whole else max((*kinds, *splits), default=-1) + 1
    return str(PurePosixPath(*template[:depth])), split, is_label


def _paired(root: Path, found: Sequence[Found]) -> Pairs:
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


def _with_wildcards(items: Sequence[Found]) -> list[Found]:
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


def _of_two_templates(root: Path, images: Sequence[Found], labels: Sequence[Found]) -> Pairs:
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


def _by_template(items: Sequence[Found], ends: Sequence[str], root: Path) -> dict[_Key, dict[str, Found]]:
    """Returns the files by template and end, then by sample id, of the templates that most have."""
    templates = {template for template, _ in Counter(item.template for item in items).most_common(MAX_TEMPLATES)}
    out: dict[_Key, dict[str, Found]] = {}
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
    example = {found.is_label: path for path in pictures if (found := _look_at(root, path, RULES[1][0]))}
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
