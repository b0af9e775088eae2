"""Cityscapes' four scores from files: class IoU, category IoU and the two instance-weighted ones (iIoU).

The scores are computed twice: by cityscapesscripts, in this process on the files as they are, and by vectorised code of
ours. The two must agree to 1e-12. Files hold labelIds 0..33; a predicted id of a class that is not scored is a miss.

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
"""

import contextlib
import copy
import importlib
import io
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from PIL import Image

from segnl.core.arrays import Ids
from segnl.core.errors import DataError, MachineError, first_line
from segnl.core.files import open_regular
from segnl.labels.cityscapes import CATEGORIES, LABELS, SCORED
from segnl.metrics.confusion import joint_counts, number_or_none, ratio

NUM_IDS = 34
MAX_DIFFERENCE = 1e-12

# Mean size in pixels of an instance in the training set, as cityscapesscripts 2.3.0 has it.
AVERAGE_INSTANCE_PX = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
_SCORED_IDS = [label.id for label in SCORED]
_DRAWN = LABELS[:-1]  # all but the licence plate, by id
_CATEGORY_OF = np.array([label.category_id for label in _DRAWN])
_AVERAGE_PX = np.array([AVERAGE_INSTANCE_PX.get(label.name, 0.0) for label in LABELS])
# Label ids of instances that cityscapesscripts weighs or skips; any other id crashes it.
_INSTANCE_IDS = [label.id for label in _DRAWN if label.has_instances or label.ignore_in_eval]
THING_CATEGORIES = tuple(c for c in CATEGORIES if all(x.has_instances for x in _DRAWN if x.category == c))

PerName = dict[str, float]


class Frame(NamedTuple):
    """Files of one image."""

    prediction: Path
    label: Path
    instances: Path


class CityscapesScores(NamedTuple):
    """IoUs by class or category name, NaN where undefined; iIoUs of the 8 thing classes and 2 thing categories only."""

    class_iou: PerName
    class_iiou: PerName
    category_iou: PerName
    category_iiou: PerName

    def means(self) -> PerName:
        """Returns the four official numbers, means over the defined scores."""
        return {name: _mean(getattr(self, name).values()) for name in self._fields}


def score_frames(frames: Sequence[Frame]) -> dict[str, Any]:
    """Scores labelId PNGs by both implementations.

    Returns {class_iou, class_iiou, category_iou, category_iiou, per_class, per_class_iiou, per_category,
    per_category_iiou}, None for undefined.

    Raises DataError for files that are damaged, of another size, or hold unknown ids; MachineError when the two
    implementations differ.
    """
    ours = count_frames(frames)
    theirs = run_cityscapesscripts(frames)
    check_agreement(ours, theirs)
    return _plain(theirs.means()) | {
        "per_class": _plain(theirs.class_iou),
        "per_class_iiou": _plain(theirs.class_iiou),
        "per_category": _plain(theirs.category_iou),
        "per_category_iiou": _plain(theirs.category_iiou),
    }


def _plain(scores: PerName) -> dict[str, float | None]:
    return {name: number_or_none(value) for name, value in scores.items()}


def count_frames(frames: Sequence[Frame]) -> CityscapesScores:
    """Scores the files by our own code. Raises DataError naming a file that is damaged or holds an unknown id."""
    counts = CityscapesCounts()
    for frame in frames:
        prediction, label, instances = map(_read, frame)
        counts.update(prediction, label, instances, names=(str(frame[0]), str(frame[1]), str(frame[2])))
    if counts.looks_like_train_ids():
        raise DataError(
            f"{frames[0].prediction.parent}: the predictions look like train ids 0..18; expected labelIds 7..33 "
            f"(`segnl eval --masks DIR` writes them to DIR/ids)"
        )
    return counts.scores()


class CityscapesCounts:
    """Pixels of each pair of ids, and instance-weighted true positives and false negatives by id."""

    def __init__(self) -> None:
        self.joint = np.zeros((NUM_IDS, NUM_IDS), np.int64)  # label, prediction
        self.weighted = np.zeros(NUM_IDS)  # weighted instance pixels
        self.class_tp = np.zeros(NUM_IDS)  # those predicted as their class
        self.category_tp = np.zeros(NUM_IDS)  # those predicted as any id of their category

    def update(self, prediction: Ids, label: Ids, instances: Ids, *, names: tuple[str, str, str]) -> None:
        """Counts one image.

        prediction, label: labelIds `H W`. instances: 1000 x labelId + number, or a labelId, `H W`. names: the three
        files, for messages. Raises DataError for other shapes and ids.
        """
        for values, name in ((prediction, names[0]), (instances, names[2])):
            if values.ndim != 2 or values.shape != label.shape:
                raise DataError(f"{name}: shape {values.shape}; expected one channel of {label.shape} as {names[1]}")
        for values, name in ((prediction, names[0]), (label, names[1])):
            _check_ids(values, name)
        prediction, label = (np.ascontiguousarray(values, np.uint8) for values in (prediction, label))
        self.joint += joint_counts(prediction, label, num_ids=NUM_IDS)
        self._count_instances(prediction, instances, names[2])

    def _count_instances(self, prediction: Ids, instances: Ids, name: str) -> None:
        is_instance = instances > 1000
        instance, predicted_id = instances[is_instance], prediction[is_instance]
        instance_ids = np.flatnonzero(np.bincount(instance))
        label_id = instance_ids // 1000
        unknown = instance_ids[~np.isin(label_id, _INSTANCE_IDS)]
        if unknown.size:
            raise DataError(f"{name}: holds instance id {unknown[0]}; expected 1000 x a labelId of things + a number")
        place_of = np.zeros(instance_ids.max(initial=0) + 1, np.int64)
        place_of[instance_ids] = np.arange(len(instance_ids))
        cell = place_of[instance] * NUM_IDS + predicted_id
        pixels = np.bincount(cell, minlength=len(instance_ids) * NUM_IDS).reshape(-1, NUM_IDS)  # by predicted id
        size = pixels.sum(axis=1)
        in_class = pixels[np.arange(len(instance_ids)), label_id]
        in_category = (pixels * (_CATEGORY_OF[label_id, None] == _CATEGORY_OF)).sum(axis=1)
        weight = _AVERAGE_PX[label_id] / size  # 0 for ids that are not scored: ego vehicle, caravan, trailer
        np.add.at(self.weighted, label_id, size * weight)
        np.add.at(self.class_tp, label_id, in_class * weight)
        np.add.at(self.category_tp, label_id, in_category * weight)

    def looks_like_train_ids(self) -> bool:
        """Whether no prediction exceeds 18 and more pixels are correct when read as train ids than as labelIds."""
        as_train = self.joint[_SCORED_IDS, range(len(SCORED))].sum()
        as_label = self.joint[_SCORED_IDS, _SCORED_IDS].sum()
        return bool(self.joint[:, len(SCORED) :].sum() == 0 and as_train > as_label)

    def scores(self) -> CityscapesScores:
        """Returns all IoUs of the images counted so far."""
        result = CityscapesScores({}, {}, {}, {})
        for label in SCORED:
            fp = self._false_positives([label.id], [label.id])
            result.class_iou[label.name] = _iou(self.joint[label.id, label.id], self.joint[label.id].sum() + fp)
            if label.has_instances:
                result.class_iiou[label.name] = _iou(self.class_tp[label.id], self.weighted[label.id] + fp)
        for category in CATEGORIES:
            ids = [label.id for label in SCORED if label.category == category]
            fp = self._false_positives(ids, ids)
            result.category_iou[category] = _iou(self.joint[np.ix_(ids, ids)].sum(), self.joint[ids].sum() + fp)
            if category in THING_CATEGORIES:
                drawn = [label.id for label in _DRAWN if label.category == category]  # caravan and trailer too
                fp = self._false_positives(ids, drawn)
                result.category_iiou[category] = _iou(self.category_tp[ids].sum(), self.weighted[ids].sum() + fp)
        return result

    def _false_positives(self, own: list[int], predicted: list[int]) -> int:
        """Counts pixels predicted as one of `predicted` whose label is scored and not one of `own`."""
        others = [label_id for label_id in _SCORED_IDS if label_id not in own]
        return int(self.joint[np.ix_(others, predicted)].sum())


def run_cityscapesscripts(frames: Sequence[Frame]) -> CityscapesScores:
    """Scores the files by cityscapesscripts. Raises DataError with its message when it exits."""
    printed = io.StringIO()
    # NumPy 2.4 removed in1d, which cityscapesscripts 2.3.0 uses.
    with mock.patch.object(np, "in1d", np.isin, create=True), contextlib.redirect_stdout(printed):
        module = _import_evaluator()
        args = copy.copy(module.args)
        args.quiet, args.JSONOutput = True, False
        try:
            result = module.evaluateImgLists(
                [str(frame.prediction) for frame in frames], [str(frame.label) for frame in frames], args
            )
        except SystemExit as err:
            lines = printed.getvalue().strip().splitlines()
            raise DataError(f"cityscapesscripts: {lines[-1] if lines else 'exited'}; correct the file") from err
    things = [label.name for label in SCORED if label.has_instances]
    return CityscapesScores(
        {label.name: result["classScores"][label.name] for label in SCORED},
        {name: result["classInstScores"][name] for name in things},
        {name: result["categoryScores"][name] for name in CATEGORIES},
        {name: result["categoryInstScores"][name] for name in THING_CATEGORIES},
    )


def _import_evaluator() -> ModuleType:
    # It reads the environment when imported, and fails for an export folder that does not exist; we export nothing.
    with mock.patch.dict(os.environ):
        os.environ.pop("CITYSCAPES_EXPORT_DIR", None)
        try:
            return importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
        except ImportError as err:
            raise MachineError(f"cityscapesscripts cannot be imported ({err}); pip install cityscapesscripts") from err


def check_agreement(ours: CityscapesScores, theirs: CityscapesScores) -> None:
    """Raises MachineError naming the first score on which the two implementations differ by more than 1e-12."""
    for kind in CityscapesScores._fields:
        for name, value in {**getattr(theirs, kind), "mean": theirs.means()[kind]}.items():
            own = {**getattr(ours, kind), "mean": ours.means()[kind]}[name]
            if math.isnan(own) != math.isnan(value) or abs(own - value) > MAX_DIFFERENCE:
                raise MachineError(
                    f"{kind} of {name}: {own!r} by segnl, {value!r} by cityscapesscripts; please report it"
                )


def _read(path: Path) -> Ids:
    try:
        with open_regular(path) as file, Image.open(file) as image:
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as err:
        raise DataError(f"{path}: cannot be read ({first_line(err)}); write it again") from err


def _check_ids(values: Ids, name: str) -> None:
    wrong = (values < 0) | (values >= NUM_IDS)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        value = int(values[row, column])
        raise DataError(f"{name}: pixel (row {row}, column {column}) holds {value}; expected labelIds 0..33")


def _iou(intersection: float, union: float) -> float:
    return float(ratio(intersection, union))


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else float("nan")
