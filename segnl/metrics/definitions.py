"""Definitions of mIoU in use, by name: what the code of other projects prints for the same masks. Imports no torch.

Each is written anew from the behaviour of the named function and tested against it where that package is installed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from segnl.core.arrays import Pixels
from segnl.metrics.confusion import mean_of_defined, ratio
from segnl.metrics.mask_counts import MaskCounts


@dataclass(frozen=True)
class Definition:
    """A way to reduce masks to one number.

    name: in JSON. title: for people. score: the number, a fraction; NaN where the original prints none. meaning: a
    sentence that says what it does differently. source: package, version, function. long_side_px: of masks and labels
    when they are counted; None: the label's own size. about_ignored: what it does where a label or a prediction holds
    an ignored id.
    """

    name: str
    title: str
    score: Callable[[MaskCounts], float]
    meaning: str
    source: str
    long_side_px: int | None = None
    about_ignored: str = ""


def _truth_present_only(counts: MaskCounts) -> float:
    confusion = counts.confusion
    return mean_of_defined(confusion.iou()[confusion.target() > 0])


def _ultralytics(counts: MaskCounts) -> float:
    matrix = counts.total[:-1, :-1]  # pixels without a label or without a predicted class are not counted
    intersection, target = matrix.diagonal(), matrix.sum(axis=1)
    iou = ratio(intersection, target + matrix.sum(axis=0) - intersection)
    return float(iou[target > 0].mean()) if target.any() else 0.0


def _smp(counts: MaskCounts, axis: int | tuple[int, ...] | None) -> float:
    """Adds up counts `n k` over `axis` before the division, then takes the mean; predictions on ignored pixels err."""
    images = counts.images
    intersection, union = images.intersection, images.union + images.on_ignored
    iou = ratio(intersection.sum(axis), union.sum(axis))
    # Its zero_division, by default 1, does not apply to the single ratio of `micro`.
    return float(iou if axis is None else np.nan_to_num(iou, nan=1.0).mean())


def _torchmetrics_jaccard_micro(counts: MaskCounts) -> float:
    images = counts.images
    return float("nan") if counts.has_unassigned() else float(ratio(images.intersection.sum(), images.union.sum()))


def _torchmetrics_mean_iou(counts: MaskCounts) -> float:
    if counts.has_unassigned(also_on_ignored=True):
        return float("nan")
    images = counts.images  # an ignored pixel takes the predicted class as its label, and so is correct
    return mean_of_defined(ratio(images.intersection + images.on_ignored, images.union + images.on_ignored).ravel())


def _hf_example(counts: MaskCounts) -> float:
    rows = counts.total[1:]  # without the pixels labelled 0, and with those whose label is no class
    intersection = np.append(0, counts.total.diagonal()[1:-1])
    target = np.append(0, rows[:-1].sum(axis=1))
    return mean_of_defined(ratio(intersection, target + rows[:, :-1].sum(axis=0) - intersection))


def _image_mean(counts: MaskCounts) -> float:
    return mean_of_defined(counts.images.miou)


_ULTRALYTICS = "ultralytics 8.4.190, utils.metrics.SemanticMetrics"
_SMP = "segmentation_models_pytorch 0.6.0, metrics.get_stats(mode='multiclass') without ignore_index, iou_score"
_SMP_REDUCTIONS: tuple[tuple[str, int | tuple[()] | None, str], ...] = (
    ("micro", None, "All classes are added up before one division, so large classes decide. Often taken for mIoU."),
    ("macro", 0, "Mean over all classes, a class in neither labels nor predictions counting 1."),
    ("micro-imagewise", 1, "All classes are added up in each image alone; then the mean over images."),
    ("macro-imagewise", (), "Mean over images and classes; a class in neither label nor prediction counts 1."),
)
"""Each with the axes that are added up before the division."""
_NEEDS_CLASS = "It stops with a RuntimeError if a prediction holds an ignored id on a labelled pixel."


DEFINITIONS = (
    Definition(
        "label_size_union_present",
        "mIoU (Cityscapes, mmsegmentation)",
        lambda counts: counts.confusion.miou(),
        "The exact mIoU: one count over all images at the label's size, mean over the classes that occur in labels or "
        "predictions. Cityscapes, mmsegmentation and segnl define it so.",
        "cityscapesscripts 2.3.0, evalPixelLevelSemanticLabeling; mmsegmentation 1.2.2, IoUMetric",
    ),
    Definition(
        "absent_counts_zero",
        "mIoU over all classes (ADE20K's benchmark)",
        lambda counts: counts.confusion.miou_over_all(),
        "Mean over all classes; a class in neither labels nor predictions counts 0 instead of being left out.",
        "CSAILVision/sceneparsing, the evaluation of ADE20K's benchmark",
    ),
    Definition(
        "truth_present_only",
        "mIoU over the labelled classes",
        _truth_present_only,
        "Mean over the classes in the labels; a class that is predicted but never labelled is left out instead of "
        "counting 0.",
        "as ultralytics 8.4.190, but a pixel that is predicted as no class counts as wrong instead of being dropped",
    ),
    Definition(
        "frequency_weighted",
        "frequency-weighted IoU",
        lambda counts: counts.confusion.frequency_weighted_iou(),
        "Each class is weighted by its labelled pixels, so large classes decide. This is not mIoU.",
        "Long et al. 2015, Fully Convolutional Networks, arXiv:1411.4038 (fwIoU)",
    ),
    Definition(
        "pixel_accuracy",
        "pixel accuracy",
        lambda counts: counts.confusion.pixel_acc(),
        "Correct fraction of all labelled pixels. This is not mIoU.",
        "aAcc in mmsegmentation 1.2.2",
    ),
    *(
        Definition(
            f"ultralytics_at_{long_side_px}",
            f"mIoU (ultralytics, imgsz={long_side_px})",
            _ultralytics,
            "About what `yolo val` prints with this imgsz. It scores the network's output at that size; here the saved "
            "masks and the labels are resized, so that the longer side has imgsz pixels (nearest pixel). Mean over the "
            "classes in the labels.",
            f"{_ULTRALYTICS}, data.dataset.SemanticDataset",
            long_side_px,
        )
        for long_side_px in (640, 256, 128)
    ),
    Definition(
        "ultralytics_label_size",
        "mIoU (ultralytics, at the label's size)",
        _ultralytics,
        "Mean over the classes in the labels.",
        _ULTRALYTICS,
        about_ignored="A labelled pixel on which the prediction holds an ignored id is dropped instead of counting as "
        "wrong.",
    ),
    *(
        Definition(
            f"smp_{reduction.replace('-', '_')}",
            f"IoU, {reduction} (segmentation_models_pytorch, multiclass)",
            partial(_smp, axis=axis),
            meaning,
            f"{_SMP}(reduction='{reduction}')",
            about_ignored="Called without ignore_index: predictions on ignored pixels count as wrong.",
        )
        for reduction, axis, meaning in _SMP_REDUCTIONS
    ),
    Definition(
        "torchmetrics_jaccard_macro",
        "Jaccard index, macro (torchmetrics)",
        lambda counts: float("nan") if counts.has_unassigned() else counts.confusion.miou(),
        "The exact mIoU, computed in float32.",
        "torchmetrics 1.9.0, classification.MulticlassJaccardIndex(ignore_index=...)",
        about_ignored=_NEEDS_CLASS,
    ),
    Definition(
        "torchmetrics_mean_iou_void_filled_with_prediction",
        "MeanIoU (torchmetrics)",
        _torchmetrics_mean_iou,
        "IoU of each class in each image alone, then one mean over all of these where the class occurs in label or "
        "prediction.",
        "torchmetrics 1.9.0, segmentation.MeanIoU(input_format='index')",
        about_ignored="It has no ignore_index: here ignored pixels were given the predicted class first, so they count "
        "as correct. It stops with a RuntimeError if a prediction holds an ignored id.",
    ),
    Definition(
        "hf_example_ignore_0",
        "mIoU (example script of Hugging Face transformers)",
        _hf_example,
        "Hugging Face's example script passes ignore_index=0: pixels labelled as the first class are dropped, but the "
        "class stays in the mean, with IoU 0 as soon as it is predicted elsewhere.",
        "transformers, examples/pytorch/semantic-segmentation/run_semantic_segmentation.py; evaluate, metrics/mean_iou",
        about_ignored="Predictions on ignored pixels count as wrong.",
    ),
    Definition(
        "torchmetrics_jaccard_micro",
        "Jaccard index, micro (torchmetrics, torchgeo)",
        _torchmetrics_jaccard_micro,
        "All classes are added up before one division, so large classes decide. Often taken for mIoU.",
        "torchmetrics 1.9.0, MulticlassJaccardIndex(average='micro'); torchgeo 0.8.1, SemanticSegmentationTask; "
        "segmentation_models_pytorch 0.6.0 with ignore_index, reduction='micro'",
        about_ignored=_NEEDS_CLASS,
    ),
    Definition(
        "mean_dice",
        "mean Dice (mDice)",
        lambda counts: mean_of_defined(counts.confusion.f1()),
        "Mean F1 (Dice) instead of IoU; it is never lower than mIoU.",
        "mmsegmentation 1.2.2, IoUMetric(iou_metrics=['mDice'])",
    ),
    Definition(
        "mean_accuracy",
        "mean accuracy (mAcc)",
        lambda counts: counts.confusion.mean_acc(),
        "Mean over classes of the correct fraction of their labelled pixels (recall); false positives do not count.",
        "mmsegmentation 1.2.2, IoUMetric (mAcc)",
    ),
    Definition(
        "image_mean",
        "mIoU of each image, averaged",
        _image_mean,
        "mIoU of each image alone, over the classes in its label or prediction, then the mean over images.",
        "Csurka et al. 2013, What is a good evaluation measure for semantic segmentation?, BMVC",
    ),
)
"""By name; the first is the exact number."""
COARSE = 0.0004
"""Tolerance of a published number above which it may fit by chance; 71.2 % has 0.0005."""
TITLES = {own.name: own.title for own in DEFINITIONS}


@dataclass(frozen=True)
class PublishedScore:
    """A printed number and the scores that it fits.

    value: a fraction. tolerance: half of the last printed digit. matches: names of definitions. nearest: the
    nearest of all scores. other_matches: other scores, in words.
    """

    text: str
    value: float
    tolerance: float
    matches: tuple[str, ...]
    nearest: str | None
    other_matches: tuple[str, ...]


def published_score(
    text: str, definitions: Mapping[str, float], others: Mapping[str, float] | None = None
) -> PublishedScore:
    """Finds the scores that a printed number fits. text: a fraction such as 0.712, or percent such as 71.2.

    definitions, others: fractions by name, NaN for undefined. Raises ValueError for a text that is no number within
    0..100.
    """
    plain = text.strip().removesuffix("%").strip()
    whole, _, decimals = plain.partition(".")
    if not (whole + decimals).isascii() or not (whole + decimals).isdecimal() or float(plain) > 100:
        raise ValueError(f"{text!r}; expected a fraction such as 0.712 or percent such as 71.2")
    scale = 0.01 if float(plain) > 1 or "%" in text else 1.0
    value, tolerance = scale * float(plain), scale * 0.5 * 10.0 ** -len(decimals)
    scores = {**definitions, **(others or {})}
    distances = {name: abs(score - value) for name, score in scores.items() if np.isfinite(score)}
    fitting = [name for name, distance in distances.items() if distance <= tolerance * (1 + 1e-6)]
    matches, other_matches = (tuple(name for name in fitting if (name in definitions) is own) for own in (True, False))
    nearest = min(distances, key=distances.__getitem__, default=None)
    return PublishedScore(text, value, tolerance, matches, nearest, other_matches)


def with_long_side(ids: Pixels, long_side_px: int) -> Pixels:
    """Resizes ids as ultralytics does with a label: its rounding, and OpenCV's nearest pixel (the one to the left)."""
    height, width = ids.shape
    factor = long_side_px / max(height, width)
    if factor == 1:
        return ids
    wh = (min(math.ceil(width * factor), long_side_px), min(math.ceil(height * factor), long_side_px))
    return np.asarray(cv2.resize(ids, wh, interpolation=cv2.INTER_NEAREST), np.uint8)


def definition_scores(counts: MaskCounts, resized: Mapping[int, MaskCounts]) -> dict[str, float]:
    """Returns every definition's number by name. resized: the counts at each long side that a definition needs."""
    return {
        own.name: own.score(counts if own.long_side_px is None else resized[own.long_side_px]) for own in DEFINITIONS
    }
