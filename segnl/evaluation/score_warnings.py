"""Warnings about scored masks that look wrong. Imports no torch."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segnl.core import IGNORE
from segnl.core.arrays import Pixels
from segnl.data.mask_files import listed
from segnl.evaluation.score_classes import IDS_IN_WORDS, UNKNOWN, PredictionIds, class_ids, prediction_lut
from segnl.labels.table import means_no_class
from segnl.metrics.confusion import Confusion, ratio

if TYPE_CHECKING:
    from segnl.evaluation.score_masks import MaskScore

NUM_COMPARED = 4  # images
MIN_GAIN, MIN_ACCURACY = 0.1, 0.5
"""Mean gain in pixel accuracy, and the accuracy then, from which masks are called flipped or off by one."""
MIN_IOU, MIN_RATIO = 0.25, 4
"""IoU of a class with another predicted id, itself and relative to the right ids, from which they are exchanged."""
MIN_EXCHANGED = 0.005
"""Fraction of the labelled pixels in classes that stand for one another, from which they are called permuted."""
_ADD_ONE = "Add 1 to the predicted ids."
_NUMBER = re.compile(r"(.*?)(\d{1,18})", re.DOTALL | re.ASCII)
_FLIPS: dict[str, Callable[[Pixels], Pixels]] = {
    "left to right": np.fliplr,
    "upside down": np.flipud,
    "by 180 degrees": lambda ids: ids[::-1, ::-1],
}


def coverage_warnings(score: "MaskScore") -> list[str]:
    """Warns about labels without prediction, resized masks, and images without labels."""
    warnings = []
    if score.unpaired:
        warnings.append(
            f"No prediction belongs to {len(score.unpaired)} of {score.num_labels} labels "
            f"({listed(score.unpaired, limit=3)}), so this is the score of "
            f"{count_of(len(score.sample_ids), 'image')}, not of all."
        )
    if score.num_resized:
        warnings.append(
            f"{score.num_resized} of {len(score.sample_ids)} predictions have another size than their label and were "
            "resized to it (nearest pixel). Scores of masks at the label's size differ from these."
        )
    without_label = int((score.counts.images.target.sum(axis=1) == 0).sum())
    if without_label:
        warnings.append(
            f"{without_label} of {len(score.sample_ids)} images have no labelled pixel. They do not count in the exact "
            "mIoU; some other definitions count them."
        )
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
        in_ignored = ", in ignored pixels too" * bool(score.counts.total[-1].any())
        warnings.append(f"Every prediction equals its label{in_ignored}. PREDICTIONS may be a copy of the labels.")
    return [*warnings, *_numbering_warnings(score)]


def _numbering_warnings(score: "MaskScore") -> list[str]:
    """Warns where labels are left over and the predictions fit the labels of the neighbouring numbers far better."""
    if not score.unpaired:
        return []
    matches = [(_NUMBER.fullmatch(sample_id), i) for i, sample_id in enumerate(score.sample_ids)]
    place = {(match[1], int(match[2])): i for match, i in matches if match is not None}
    for step, word in (1, "next"), (-1, "previous"):
        pairs = [(i, place.get((name, number + step))) for (name, number), i in place.items()]
        gain = _gain(score, [(i, neighbour) for i, neighbour in pairs if neighbour is not None], lambda ids: ids)
        if gain:
            return [
                f"The predictions fit the labels with the {word} number better than their own ({_points(gain)} more "
                "pixel accuracy): the numbers may be off by one."
            ]
    return []


def _flip_warnings(score: "MaskScore") -> list[str]:
    """Warns where flipped predictions fit their labels far better."""
    own = [(i, i) for i in range(len(score.sample_ids))]
    gain, words = max((_gain(score, own, flip), words) for words, flip in _FLIPS.items())
    if not gain:
        return []
    return [f"The predictions look flipped {words}: flipped back, they have {_points(gain)} more pixel accuracy."]


def _points(fraction: float) -> str:
    return f"{100 * fraction:.0f} points"


def _gain(score: "MaskScore", pairs: Sequence[tuple[int, int]], move: Callable[[Pixels], Pixels]) -> float:
    """Returns the mean gain in pixel accuracy by moving predictions; 0 if it is small, or not seen in every image.

    pairs: the image of a prediction, and of the label that it may belong to; a few of them are read.
    """
    before, after = [], []
    for i, other in pairs[:: -(-len(pairs) // NUM_COMPARED) or 1]:
        (prediction, label), (_, other_label) = score.read(i), score.read(other)
        if prediction.shape == other_label.shape:
            before.append(_accuracy(prediction, label))
            after.append(_accuracy(move(prediction), other_label))
    gains = np.subtract(after, before)
    is_clear = len(gains) > 1 and min(gains) > 0 and np.mean(gains) > MIN_GAIN and np.mean(after) > MIN_ACCURACY
    return float(np.mean(gains)) if is_clear else 0.0


def _accuracy(prediction: Pixels, label: Pixels) -> float:
    is_labelled = label != IGNORE
    return float((prediction == label)[is_labelled].mean()) if is_labelled.any() else 0.0


def ids_warnings(score: "MaskScore") -> list[str]:
    """Warns where labels or predictions look like other ids than they were read as, or flipped."""
    label_warnings = _label_warnings(score)
    warnings = _other_ids_warnings(score) or _flip_warnings(score) or _permutation_warnings(score)
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

    Label and predicted id belong together if each is the other's best match by IoU, far better than the right ids. Bad
    predictions rarely do this: a class that is confused with another one takes over its pixels, but not the other way
    round. It takes two such classes that hold most pixels, or that stand for one another.
    """
    table, matrix = score.table, score.counts.total[:-1, :-1]
    target = score.counts.confusion.target()
    iou = np.nan_to_num(ratio(matrix, target[:, None] + matrix.sum(axis=0) - matrix))
    right = np.maximum(iou.diagonal()[:, None], iou.diagonal())
    is_best = (iou == iou.max(axis=0)) & (iou == iou.max(axis=1, keepdims=True))
    moved = np.argwhere(is_best & (iou > MIN_IOU) & (iou > MIN_RATIO * right)).tolist()
    exchanged = moved  # classes that stand for one another: without chains, whose last id stands for itself or nothing
    while exchanged != (kept := [pair for pair in exchanged if pair[1] in [label for label, _ in exchanged]]):
        exchanged = kept
    share_moved, share_exchanged = (
        sum(int(matrix[label, own]) for label, own in pairs) / max(1, int(target.sum())) for pairs in (moved, exchanged)
    )
    if len(moved) < 2 or not (share_moved > 0.5 or share_exchanged > MIN_EXCHANGED):
        return []
    own_ids = class_ids(table, score.request.prediction_ids)
    pairs = [f"{own_ids[own]} fits '{table.names[label]}' ({own_ids[label]}) best" for label, own in moved]
    shifts = {own_ids[own] - own_ids[label] for label, own in moved}
    if table.num_classes == 2:
        cause, remedy = "exchanged (inverted masks)", "If so, exchange the two ids in the predictions."
    elif shifts in ({1}, {-1}):
        cause, remedy = "shifted by one", "Subtract 1 from the predicted ids." if shifts == {1} else _ADD_ONE
    else:
        cause = "permuted"
        remedy = (
            "If the predictions number the classes in another order, give a class table (index, name) with a line per "
            "class in their order, each with its id in the labels, and add --prediction-ids train. Palette files are "
            "read by their indices, not by their colours."
        )
    return [f"The predicted ids look {cause}: {listed(pairs, limit=3)}. {remedy}"]


def class_warnings(score: "MaskScore") -> list[str]:
    """Warns about classes that only labels or only predictions hold, and about pixels predicted as no class."""
    warnings = []
    confusion, names = score.counts.confusion, score.table.names
    target, predicted = confusion.target(), score.counts.total[:, :-1].sum(axis=0)
    never, only = (
        [names[i] for i in np.flatnonzero(is_missing)]
        for is_missing in ((target > 0) & (predicted == 0), (target == 0) & (confusion.prediction() > 0))
    )
    if never:
        warnings.append(f"Never predicted, though labelled (IoU 0 in the mean): {listed(never, limit=8)}.")
    for own in filter(means_no_class, never):
        file_id = score.table.file_ids[names.index(own)]
        warnings[-1] += f" If '{own}' is no class, remove it from the class table and add --ignore {file_id}."
    if only:
        warnings.append(
            "Predicted, though never labelled (IoU 0 in the exact mIoU; definitions differ in this): "
            f"{listed(only, limit=8)}."
        )
    unlabelled, absent = int(score.counts.total[-1].sum()), [names[i] for i in np.flatnonzero(target == 0)]
    if score.request.labels.suffix == ".json" and unlabelled and absent:
        warnings.append(
            f"{unlabelled:,} pixels ({100 * unlabelled / score.counts.total.sum():.2f} %) are in no mask of the labels "
            f"and not scored, and no mask is of {listed(absent, limit=3)}. If they are of such a class, add its masks."
        )
    unassigned = int(confusion.matrix[:, -1].sum())
    if unassigned:
        is_json = score.request.predictions.suffix == ".json"
        warnings.append(
            f"{unassigned:,} labelled pixels ({100 * unassigned / max(1, int(target.sum())):.2f} %) are predicted as "
            f"no class{'' if is_json else ' (an ignored id)'}. They count as wrong in the exact mIoU; definitions "
            "differ in this."
        )
        if not (is_json or score.counts.total[-1].any()):
            warnings.append("Only predictions hold ignored pixels, labels none: are PREDICTIONS and --labels swapped?")
    return warnings


def count_of(number: int, noun: str) -> str:
    """Writes a number and its noun, such as `1 image` or `3 images`."""
    return f"{number} {noun}{'s' * (number != 1)}"
