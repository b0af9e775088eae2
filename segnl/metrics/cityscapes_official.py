"""Cityscapes' four scores from files: class IoU, category IoU and the two instance-weighted ones (iIoU).

Counted twice: by cityscapesscripts, run in this process on the files as they are, and by vectorised code of ours. The
two must agree to 1e-12. Files hold labelIds 0..33; ids of classes that are not scored count as a miss where they are
predicted.

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
"""

import contextlib
import copy
import importlib
import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from segnl.core.arrays import Ids
from segnl.core.errors import DataError, MachineError
from segnl.labels.cityscapes import CATEGORIES, LABELS, SCORED
from segnl.metrics.confusion import joint_counts

NUM_IDS = 34
MEANS = ("class_iou", "class_iiou", "category_iou", "category_iiou")
MAX_DIFFERENCE = 1e-12
BAND_ROWS = 32  # as many as fit the cache: fresh memory for a whole image takes longer than the counting

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
_DRAWN = [label for label in LABELS if label.id >= 0]
_CATEGORY_OF = np.array([label.category_id for label in sorted(_DRAWN, key=lambda label: label.id)])  # by id
THING_CATEGORIES = tuple(c for c in CATEGORIES if all(x.has_instances for x in _DRAWN if x.category == c))

PerName = dict[str, float]


class Frame(NamedTuple):
    """The files of one image: what was predicted, the truth, its instances."""

    prediction: Path
    label: Path
    instances: Path


class Scores(NamedTuple):
    """IoUs by name, NaN where undefined; iIoU of the eight thing classes and the two thing categories only."""

    class_iou: PerName
    class_iiou: PerName
    category_iou: PerName
    category_iiou: PerName

    def means(self) -> PerName:
        """The four official numbers: means over what is defined."""
        return {name: _mean(getattr(self, name).values()) for name in MEANS}


def official_scores(root: Path, split: str, predictions: Path) -> dict[str, Any]:
    """The four scores of labelId PNGs below `predictions` against root/gtFine/split, by both counts.

    Returns {class_iou, class_iiou, category_iou, category_iiou, per_class, per_category}, null for undefined.

    Raises DataError for files that are missing, double, damaged, of another size, or hold ids that are none;
    MachineError when the two counts differ.
    """
    frames = find_frames(root / "gtFine" / split, predictions)
    ours = count_frames(frames)
    theirs = run_cityscapesscripts(frames)
    check_agreement(ours, theirs)
    return {name: _or_none(value) for name, value in theirs.means().items()} | {
        "per_class": {name: _or_none(value) for name, value in theirs.class_iou.items()},
        "per_class_iiou": {name: _or_none(value) for name, value in theirs.class_iiou.items()},
        "per_category": {name: _or_none(value) for name, value in theirs.category_iou.items()},
        "per_category_iiou": {name: _or_none(value) for name, value in theirs.category_iiou.items()},
    }


def find_labels(labels: Path) -> list[tuple[Path, Path]]:
    """Every CITY/*_gtFine_labelIds.png below `labels` and its instances. Raises DataError when one is missing."""
    found = []
    for label in sorted(labels.glob("*/[!.]*_gtFine_labelIds.png")):
        instances = label.with_name(label.name.replace("_labelIds", "_instanceIds"))
        if not instances.is_file():
            raise DataError(f"{instances}: missing; the instance-weighted scores need it (see gtFine's download)")
        found.append((label, instances))
    if not found:
        raise DataError(f"{labels}: no */*_gtFine_labelIds.png; give the folder of Cityscapes with its gtFine")
    return found


def find_frames(labels: Path, predictions: Path) -> list[Frame]:
    """Pairs every CITY/*_gtFine_labelIds.png below `labels` with its instances and its one prediction.

    A prediction is a PNG anywhere below `predictions` whose name begins with CITY_SEQUENCE_FRAME.

    Raises DataError when a file is missing or double, or a prediction has no label (cityscapesscripts would score the
    rest and say nothing).
    """
    unused = set(predictions.rglob("*.png"))
    frames = []
    for label, instances in find_labels(labels):
        sample_id = label.name.removesuffix("_gtFine_labelIds.png")
        found = sorted(path for path in unused if path.name.startswith(sample_id))
        if len(found) != 1:
            names = f": {found[0]}, {found[1]}" if found else ""
            raise DataError(f"{predictions}: {len(found)} predictions {sample_id}*.png{names}; expected exactly one")
        unused.discard(found[0])
        frames.append(Frame(found[0], label, instances))
    if unused:
        raise DataError(f"{min(unused)}: no label for this prediction below {labels}; complete the labels or remove it")
    return frames


def count_frames(frames: Sequence[Frame]) -> Scores:
    """Our own count of the files. Raises DataError naming the file that is damaged or holds an id that is none."""
    count = Count()
    for frame in frames:
        names = (str(frame.prediction), str(frame.label), str(frame.instances))
        count.update(_read(frame.prediction), _read(frame.label), _read(frame.instances), names=names)
    if count.looks_like_train_ids():
        raise DataError(
            f"{frames[0].prediction.parent}: the predictions look like train ids 0..18; expected labelIds 7..33 "
            f"(`segnl eval --masks DIR` writes them to DIR/ids)"
        )
    return count.scores()


class Count:
    """Pixels of each pair of ids, and of each instance how much was found."""

    def __init__(self) -> None:
        self.joint = np.zeros((NUM_IDS, NUM_IDS), np.int64)  # truth, prediction
        self.found = np.zeros(NUM_IDS)  # weighted pixels of instances predicted as their class, by id
        self.missed = np.zeros(NUM_IDS)
        self.found_category = np.zeros(NUM_IDS)  # the same with any id of their category, by id
        self.missed_category = np.zeros(NUM_IDS)

    def update(self, predicted: Ids, label: Ids, instances: Ids, *, names: tuple[str, str, str]) -> None:
        """Counts one image: labelIds `H W` twice, and instance ids `H W` (1000 x labelId + number, or less than 1000).

        names: the three files, for messages. Raises DataError for other shapes and ids.
        """
        for values, name in ((predicted, names[0]), (instances, names[2])):
            if values.ndim != 2 or values.shape != label.shape:
                raise DataError(f"{name}: shape {values.shape}; expected one channel of {label.shape} as {names[1]}")
        for values, name in ((predicted, names[0]), (label, names[1])):
            if values.dtype != np.uint8:  # what 8 bits hold is checked by the counts, which is quicker
                _check_ids(values, name)
        predicted, label = (np.ascontiguousarray(values, np.uint8) for values in (predicted, label))
        joint = joint_counts(predicted, label, num_ids=NUM_IDS)
        if joint.sum() != label.size:
            for values, name in ((predicted, names[0]), (label, names[1])):
                _check_ids(values, name)
        self.joint += joint
        self._count_instances(predicted, instances, names[2])

    def _count_instances(self, predicted: Ids, instances: Ids, name: str) -> None:
        is_known = np.zeros(max(0, int(instances.max())) + 1, np.bool_)
        parts = []
        for first in range(0, len(instances), BAND_ROWS):
            of_band = instances[first : first + BAND_ROWS]
            is_instance = of_band > 1000
            instance = of_band[is_instance]
            is_known[instance] = True
            parts.append((instance, predicted[first : first + BAND_ROWS][is_instance]))
        known = np.flatnonzero(is_known)
        label_id = known // 1000
        strange = [int(i) for i in known[~np.isin(label_id, _INSTANCE_IDS)]]
        if strange:
            raise DataError(f"{name}: holds instance id {strange[0]}; expected 1000 x a labelId of things + a number")
        row = np.zeros(len(is_known), np.int64)
        row[known] = np.arange(len(known)) * NUM_IDS
        cells = np.zeros(len(known) * NUM_IDS, np.int64)
        for instance, what in parts:
            cells += np.bincount(row.take(instance) + what, minlength=len(cells))
        as_what = cells.reshape(-1, NUM_IDS)  # how many pixels of each instance were predicted as each id
        size = as_what.sum(axis=1)
        found = as_what[np.arange(len(known)), label_id]
        related = (as_what * (_CATEGORY_OF[label_id, None] == _CATEGORY_OF)).sum(axis=1)
        weight = _AVERAGE_PX[label_id] / size  # 0 for what is not scored: ego vehicle, caravan, trailer
        np.add.at(self.found, label_id, found * weight)
        np.add.at(self.missed, label_id, (size - found) * weight)
        np.add.at(self.found_category, label_id, related * weight)
        np.add.at(self.missed_category, label_id, (size - related) * weight)

    def looks_like_train_ids(self) -> bool:
        """Whether no prediction exceeds 18 and more pixels are right when read as train ids than as labelIds."""
        as_train = self.joint[_SCORED_IDS, range(len(SCORED))].sum()
        as_label = self.joint[_SCORED_IDS, _SCORED_IDS].sum()
        return bool(self.joint[:, len(SCORED) :].sum() == 0 and as_train > as_label)

    def scores(self) -> Scores:
        """All IoUs of what was counted so far."""
        result = Scores({}, {}, {}, {})
        for label in SCORED:
            right, false = self.joint[label.id, label.id], self._false([label.id], [label.id])
            result.class_iou[label.name] = _fraction(right, self.joint[label.id].sum() + false)
            if label.has_instances:
                found, missed = self.found[label.id], self.missed[label.id]
                result.class_iiou[label.name] = _fraction(found, found + missed + false)
        for category in CATEGORIES:
            ids = [label.id for label in SCORED if label.category == category]
            right = self.joint[np.ix_(ids, ids)].sum()
            result.category_iou[category] = _fraction(right, self.joint[ids].sum() + self._false(ids, ids))
            if category in THING_CATEGORIES:
                found, missed = self.found_category[ids].sum(), self.missed_category[ids].sum()
                drawn = [label.id for label in _DRAWN if label.category == category]  # caravan and trailer too
                result.category_iiou[category] = _fraction(found, found + missed + self._false(ids, drawn))
        return result

    def _false(self, own: list[int], predicted: list[int]) -> int:
        """Pixels predicted as one of `predicted` whose truth is scored and not one of `own`."""
        others = [label_id for label_id in _SCORED_IDS if label_id not in own]
        return int(self.joint[np.ix_(others, predicted)].sum())


_AVERAGE_PX = np.zeros(NUM_IDS + 1)
for _label in SCORED:
    _AVERAGE_PX[_label.id] = AVERAGE_INSTANCE_PX.get(_label.name, 0.0)
# Instance ids that cityscapesscripts weighs or skips; it dies of any other.
_INSTANCE_IDS = [label.id for label in _DRAWN if label.has_instances or label.ignore_in_eval]


def run_cityscapesscripts(frames: Sequence[Frame]) -> Scores:
    """The same by cityscapesscripts. Raises DataError with its words when it gives up."""
    said = io.StringIO()
    with _numpy_in1d(), contextlib.redirect_stdout(said):
        module = _import_evaluator()
        args = copy.copy(module.args)
        args.quiet, args.JSONOutput = True, False
        try:
            result = module.evaluateImgLists(
                [str(frame.prediction) for frame in frames], [str(frame.label) for frame in frames], args
            )
        except SystemExit as err:
            words = said.getvalue().strip().splitlines()
            raise DataError(f"cityscapesscripts: {words[-1] if words else 'gave up'}; correct the file") from err
    things = [label.name for label in SCORED if label.has_instances]
    return Scores(
        {label.name: result["classScores"][label.name] for label in SCORED},
        {name: result["classInstScores"][name] for name in things},
        {name: result["categoryScores"][name] for name in CATEGORIES},
        {name: result["categoryInstScores"][name] for name in THING_CATEGORIES},
    )


@contextlib.contextmanager
def _numpy_in1d() -> Iterator[None]:
    """Puts back, for a while, the function that NumPy 2.4 removed and cityscapesscripts 2.3.0 calls."""
    if hasattr(np, "in1d"):
        yield
        return
    setattr(np, "in1d", np.isin)  # noqa: B010  the stubs do not know the name
    try:
        yield
    finally:
        delattr(np, "in1d")


def _import_evaluator() -> ModuleType:
    # It reads the environment when imported and refuses an export folder that does not exist; we export nothing.
    export = os.environ.pop("CITYSCAPES_EXPORT_DIR", None)
    try:
        return importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    except ImportError as err:
        raise MachineError(f"cityscapesscripts cannot be imported ({err}); pip install cityscapesscripts") from err
    finally:
        if export is not None:
            os.environ["CITYSCAPES_EXPORT_DIR"] = export


def check_agreement(ours: Scores, theirs: Scores) -> None:
    """Raises MachineError naming the first score on which the two counts differ by more than 1e-12."""
    for kind in MEANS:
        for name, value in {**getattr(theirs, kind), "mean": theirs.means()[kind]}.items():
            own = {**getattr(ours, kind), "mean": ours.means()[kind]}[name]
            if math.isnan(own) != math.isnan(value) or abs(own - value) > MAX_DIFFERENCE:
                raise MachineError(
                    f"{kind} of {name}: {own!r} by segnl, {value!r} by cityscapesscripts; please report it"
                )


def _read(path: Path) -> Ids:
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as err:
        raise DataError(f"{path}: cannot be read ({str(err).splitlines()[0]}); write it again") from err


def _check_ids(values: Ids, name: str) -> None:
    wrong = (values < 0) | (values >= NUM_IDS)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        value = int(values[row, column])
        raise DataError(f"{name}: pixel (row {row}, column {column}) holds {value}; expected labelIds 0..33")


def _fraction(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")


def _mean(values: Any) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else float("nan")


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
