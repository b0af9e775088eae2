"""Warnings about scored masks that look wrong. Imports no torch."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segnl.core import IGNORE
from segnl.core.arrays import Pixels
from segnl.data.mask_files import IMAGE_SUFFIXES
from segnl.data.reading import mode_and_palette
from segnl.evaluation.score_classes import IDS_IN_WORDS, UNKNOWN, PredictionIds, class_ids, prediction_lut
from segnl.metrics.confusion import Confusion

if TYPE_CHECKING:
    from segnl.evaluation.score_masks import MaskScore

NUM_COMPARED = 4  # images
MIN_GAIN = 0.05
"""Mean gain in pixel accuracy by the labels of the neighbouring numbers, from which numbers are called off by one."""
_ABOUT_PALETTES = (
    " These are palette files, which are read by their indices; save them as RGB to have their colours read."
)
_ADD_ONE = "Add 1 to the predicted ids."
_NUMBER = re.compile(r"(.*?)(\d{1,18})", re.DOTALL | re.ASCII)
MIN_COMMON = 0.6
MIN_SWAPPED = 0.01
"""Fraction of the labelled pixels in classes that stand for one another, from which they are called permuted."""


def coverage_warnings(score: "MaskScore") -> list[str]:
    """Warns about labels without prediction, resized masks, and images without labels."""
    warnings = []
    missing = score.num_labels - len(score.sample_ids)
    if missing:
        warnings.append(
            f"{missing} of {score.num_labels} labels have no prediction. The score holds for "
            f"{count_of(len(score.sample_ids), 'image')} only and cannot be compared with one over all of them."
        )
    if score.num_resized:
        warnings.append(
            f"{score.num_resized} of {len(score.sample_ids)} predictions have another size than their label and were "
            "resized to it (nearest pixel). Scores of masks at the label's size differ from these."
        )
    without_label = int((score.counts.images.target.sum(axis=1) == 0).sum())
    if without_label:
        warnings.append(f"{without_label} of {len(score.sample_ids)} images have no labelled pixel. They do not count.")
    labelled = np.flatnonzero(score.counts.confusion.target())
    if len(labelled) == 1:
        warnings.append(
            f"Only '{score.table.names[labelled[0]]}' is in the labels: the score says nothing about the other classes."
        )
    return warnings


def pairing_warnings(score: "MaskScore") -> list[str]:
    """Warns about COCO's image numbers that were taken for file names, and about folders that may be the wrong ones."""
    warnings = []
    for sample_id, (label, prediction) in zip(score.sample_ids, score.masks, strict=True):
        if prediction.image_id is not None and label.image_id is None and len(Path(sample_id).name) != 12:
            warnings.append(
                f"Predictions are paired with labels by number, such as image_id {prediction.image_id} with "
                f"'{sample_id}', because the JSON names no files. If image_id is not the number in the file's name, "
                "add COCO's `images` (id, file_name) to the JSON."
            )
            break
    if all(label == prediction for label, prediction in score.digests):
        warnings.append(
            "Every prediction equals its label, in ignored pixels too. PREDICTIONS may be a copy of the labels."
        )
    return [*warnings, *_numbering_warnings(score)]


def _numbering_warnings(score: "MaskScore") -> list[str]:
    """Warns where labels are left over and the predictions fit the labels of the neighbouring numbers far better."""
    if len(score.sample_ids) == score.num_labels:
        return []
    matches = [(_NUMBER.fullmatch(sample_id), i) for i, sample_id in enumerate(score.sample_ids)]
    place = {(match[1], int(match[2])): i for match, i in matches if match is not None}
    for step in (1, -1):
        pairs = [
            (i, place[name, number + step]) for (name, number), i in place.items() if (name, number + step) in place
        ]
        gains = []
        for i, neighbour in pairs[:: max(1, len(pairs) // NUM_COMPARED)]:
            (prediction, own), (_, label) = score.read(i), score.read(neighbour)
            if label.shape == prediction.shape:
                gains.append(_accuracy(prediction, label) - _accuracy(prediction, own))
        if len(gains) > 1 and min(gains) > 0 and np.mean(gains) > MIN_GAIN:
            return [
                f"The predictions fit the labels with the {'next' if step == 1 else 'previous'} number better than "
                f"their own ({100 * np.mean(gains):.0f} % more correct pixels in {len(gains)} images): the "
                "numbers may be off by one."
            ]
    return []


def _accuracy(prediction: Pixels, label: Pixels) -> float:
    is_labelled = label != IGNORE
    return float((prediction == label)[is_labelled].mean()) if is_labelled.any() else 0.0


def ids_warnings(score: "MaskScore") -> list[str]:
    """Warns where labels or predictions look like other ids than they were read as."""
    label_warnings = _label_warnings(score)
    warnings = _other_ids_warnings(score) or _permutation_warnings(score)
    if label_warnings:  # which name the cause: labels of another table
        warnings = [own.removesuffix(f" {_ADD_ONE}") for own in warnings]
    return [*label_warnings, *warnings]


def _label_warnings(score: "MaskScore") -> list[str]:
    """Warns about labels of a built-in table that cannot be what they were read as."""
    classes, target = score.request.classes, score.counts.confusion.target()
    if classes == "cityscapes" and target.any() and not target[np.array(score.table.file_ids) > 18].any():
        return [
            "No label holds an id above 18, such as vegetation (21), sky (23) or car (26), so these look like train "
            "ids (labelTrainIds). Then use --classes cityscapes-train; ignored pixels must be 255."
        ]
    if classes.endswith("-train") and not score.counts.total[-1].any():
        return [
            f"No label pixel is ignored (255). Labels of {classes} usually have such pixels; if they were saved as 0, "
            f"they count as '{score.table.names[0]}' here. For labels as downloaded, use --classes "
            f"{classes.removesuffix('-train')}."
        ]
    return []


def _other_ids_warnings(score: "MaskScore") -> list[str]:
    """Warns where the predictions, read as the other kind of ids, would score far higher."""
    other: PredictionIds = "train" if score.request.prediction_ids == "file" else "file"
    k = score.table.num_classes
    matrix = np.zeros((k, 256), np.int64)
    lut = prediction_lut(score.table, other)
    for raw_id in np.flatnonzero(score.raw.any(axis=0)):
        matrix[:, lut[raw_id]] += score.raw[:k, raw_id]
    other_miou = Confusion(k, np.column_stack([matrix[:, :k], matrix[:, UNKNOWN:].sum(axis=1)])).miou()
    miou = score.counts.confusion.miou()
    if not (other_miou > miou + 0.05 and other_miou > 1.5 * miou):
        return []
    return [
        f"The predictions look like {IDS_IN_WORDS[other]}: read so, their mIoU is {100 * other_miou:.1f} % instead of "
        f"{100 * miou:.1f} %. Try --prediction-ids {other}."
    ]


def _permutation_warnings(score: "MaskScore") -> list[str]:
    """Warns about predicted ids that stand for other classes.

    Label l is called predicted as p if at least MIN_COMMON of its pixels are predicted as p, and as many of the pixels
    predicted as p are l. Bad predictions rarely do this: a class that is confused with another one takes over its
    pixels, but not the other way round. It takes two such classes that hold most pixels, or that stand for one another.
    """
    table, matrix = score.table, score.counts.total[:-1, :-1]
    target, predicted = score.counts.confusion.target(), matrix.sum(axis=0)
    moved = [
        (int(label), int(own))
        for label, own in np.argwhere((matrix > MIN_COMMON * target[:, None]) & (matrix > MIN_COMMON * predicted))
        if label != own
    ]
    swapped = moved
    while swapped != (kept := [pair for pair in swapped if pair[1] in [label for label, _ in swapped]]):
        swapped = kept
    share_moved, share_swapped = (
        sum(int(matrix[pair]) for pair in pairs) / max(1, int(target.sum())) for pairs in (moved, swapped)
    )
    if len(moved) < 2 or not (share_moved > 0.5 or share_swapped > MIN_SWAPPED):
        return []
    own_ids = class_ids(table, score.request.prediction_ids)
    pairs = [f"{own_ids[own]} mostly covers '{table.names[label]}' ({own_ids[label]})" for label, own in moved]
    shifts = {own_ids[own] - own_ids[label] for label, own in moved}
    if shifts in ({1}, {-1}):
        cause, remedy = "shifted by one", "Subtract 1 from the predicted ids." if shifts == {1} else _ADD_ONE
    else:
        cause = "permuted"
        remedy = (
            "If the predictions number the classes in another order, reorder the lines of the class table, keep each "
            "line's index (the id in the labels), and add --prediction-ids train."
        ) + _ABOUT_PALETTES * _is_palette(score.masks[0][1].where)
    return [f"The predicted ids look {cause}: {_listed(pairs, limit=3)}. {remedy}"]


def _is_palette(file: str) -> bool:
    return Path(file).suffix.lower() in IMAGE_SUFFIXES and mode_and_palette(Path(file))[0] == "P"


def class_warnings(score: "MaskScore") -> list[str]:
    """Warns about classes that only labels or only predictions hold, and about pixels predicted as no class."""
    warnings = []
    confusion, names = score.counts.confusion, score.table.names
    target, predicted = confusion.target(), score.counts.total[:, :-1].sum(axis=0)
    never = [name for name, pixels, own in zip(names, target, predicted, strict=True) if pixels and not own]
    if never:
        warnings.append(f"Never predicted, though labelled: {_listed(never)}. Each counts 0 in the mean.")
    only = [name for name, pixels, own in zip(names, target, confusion.prediction(), strict=True) if own and not pixels]
    if only:
        warnings.append(
            f"Predicted, though never labelled: {_listed(only)}. Each counts 0 in the exact mIoU; definitions "
            "differ in this."
        )
    unassigned = int(confusion.matrix[:, -1].sum())
    if unassigned:
        is_json = score.request.predictions.suffix == ".json"
        meaning = "no class" if is_json else "an ignored id"
        is_swapped = not score.counts.total[-1].any() and not is_json
        warnings.append(
            f"{unassigned:,} labelled pixels ({100 * unassigned / max(1, int(target.sum())):.2f} %) are predicted as "
            f"{meaning}. They count as errors in the exact mIoU; definitions differ in this."
            + " No label pixel is ignored: are PREDICTIONS and --labels swapped?"
            * is_swapped
        )
    return warnings


def count_of(number: int, noun: str) -> str:
    """Writes a number and its noun, such as `1 image` or `3 images`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def _listed(names: Sequence[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
