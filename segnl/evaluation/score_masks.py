"""Scores of masks that any toolkit wrote: the exact numbers, and what other definitions give. Imports no torch."""

import hashlib
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from segnl.core import IGNORE
from segnl.core.arrays import Counts, Floats, Ids, Pixels
from segnl.core.config import read_file
from segnl.core.errors import ConfigError, DataError
from segnl.core.files import utf8
from segnl.core.limits import num_cores
from segnl.core.progress import Progress
from segnl.data.annotations.yolo import class_names
from segnl.data.mask_files import Mask, find_masks, pair_masks
from segnl.labels import cityscapes
from segnl.labels.label_map import distinct_colour
from segnl.labels.table import ClassTable, Row, ranges, read_tsv
from segnl.metrics.confusion import Confusion, joint_counts, mean_of_defined, metrics_dict, number_or_none, ratio
from segnl.metrics.definitions import DEFINITIONS, PublishedScore, definition_scores, published_score, with_long_side
from segnl.metrics.mask_counts import ImageCounts, MaskCounts
from segnl.metrics.scored_counts import ScoredCounts
from segnl.metrics.strata import boundary_counts, boundary_width

PredictionIds = Literal["file", "train"]
LONG_SIDES_PX = tuple(own.long_side_px for own in DEFINITIONS if own.long_side_px is not None)
MAX_THREADS = 8
_NO_CLASS = 255
_UNKNOWN = 254
MAX_CLASSES = 253
_ADE20K = Path(__file__).parent.parent / "data" / "datasets" / "ade20k.tsv"


@dataclass(frozen=True)
class ScoreRequest:
    """Masks to score.

    predictions, labels: see data/mask_files.py. classes: a class table, data.yaml, `cityscapes`,
    `cityscapes-train` (labels that hold train ids) or `ade20k`. ignore_ids: ids in label files that are not scored.
    prediction_ids: `file`: the ids of the label files; `train`: 0..k-1 in the order of the class table.
    prediction_suffix, label_suffix: ends of file names. resize: whether masks of another size than their label are
    resized to it (nearest pixel) instead of refused. published: a printed score.
    foreground_id: of binary masks: a further id of the table's second class, in labels and predictions.
    """

    predictions: Path
    labels: Path
    classes: str
    ignore_ids: Sequence[int] = ()
    prediction_ids: PredictionIds = "file"
    prediction_suffix: str = ""
    label_suffix: str = ""
    resize: bool = False
    published: str | None = None
    foreground_id: int | None = None


@dataclass(frozen=True)
class MaskScore:
    """Counts of scored masks and what follows from them.

    boundary: int64 `n 3 k`, as `boundary_counts` gives them. resized: counts at the sizes that definitions need.
    raw: int64 `256 256`, pixels by label (train id) and prediction (as in its file). digests: of each image's label and
    prediction. num_labels: how many were found, also those without a prediction. num_resized: how many predictions were
    resized. masks: the label and the prediction of each image, to be read again.
    """

    request: ScoreRequest
    table: ClassTable
    sample_ids: tuple[str, ...]
    counts: MaskCounts
    boundary: Counts
    resized: dict[int, MaskCounts]
    raw: Counts
    digests: tuple[tuple[str, str], ...]
    num_labels: int
    num_resized: int
    masks: tuple[tuple[Mask, Mask], ...]

    @cached_property
    def definitions(self) -> dict[str, float]:
        """Every definition's number by name, a fraction; NaN where the original prints none."""
        return definition_scores(self.counts, self.resized)

    @cached_property
    def published(self) -> PublishedScore | None:
        """The definitions that give the published number; None without one."""
        return published_score(self.request.published, self.definitions) if self.request.published else None

    @property
    def boundary_iou(self) -> Floats:
        """IoU of the classes' boundaries, f64 `k`; NaN for a class in neither label nor prediction."""
        intersection, target, prediction = self.boundary.sum(axis=0)
        return ratio(intersection, target + prediction - intersection)

    @cached_property
    def warnings(self) -> list[str]:
        """Sentences about masks that look wrong."""
        return [*_coverage_warnings(self), *_ids_warnings(self), *_class_warnings(self)]

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of the --json file: fractions, null for undefined."""
        names = self.table.names
        metrics = metrics_dict(self.counts.confusion, names, num_images=len(self.sample_ids))
        del metrics["complete"]  # it comes last
        boundary = dict(zip(names, map(number_or_none, self.boundary_iou.tolist()), strict=True))
        published = self.published and {
            "text": self.published.text,
            "value": self.published.value,
            "matches": list(self.published.matches),
            "nearest": self.published.nearest,
        }
        return metrics | {
            "boundary_iou": number_or_none(mean_of_defined(self.boundary_iou)),
            "per_class_boundary_iou": boundary,
            "definitions": {name: number_or_none(value) for name, value in self.definitions.items()},
            "published": published,
            "warnings": self.warnings,
            "num_labels": self.num_labels,
            "predictions": str(self.request.predictions),
            "labels": str(self.request.labels),
            "labels_digest": _joined(label for label, _ in self.digests),
            "predictions_digest": _joined(prediction for _, prediction in self.digests),
            "complete": True,
        }

    def scored_counts(self) -> ScoredCounts:
        """Returns the counts of every image, for `segnl compare`."""
        images = self.counts.images
        return ScoredCounts(
            source=utf8(str(self.request.predictions)),
            sample_ids=self.sample_ids,
            class_names=self.table.names,
            intersection=images.intersection,
            target=images.target,
            union=images.union,
            label_digests=tuple(label for label, _ in self.digests),
            prediction_digests=tuple(prediction for _, prediction in self.digests),
        )

    def read(self, i: int) -> tuple[Pixels, Pixels]:
        """Returns the prediction and the label of image `i`, train ids u8 `H W`."""
        pair = _read_pair(self.request, self.table, *self.masks[i])
        return pair.prediction, pair.label

    def worst(self, num: int) -> list[tuple[int, float]]:
        """Returns the `num` images with the lowest pixel accuracy, and that accuracy; none without labelled pixels."""
        images = self.counts.images
        accuracy = ratio(images.intersection.sum(axis=1), images.target.sum(axis=1))
        order = np.argsort(accuracy, kind="stable")  # NaN last
        return [(int(i), float(accuracy[i])) for i in order[:num] if np.isfinite(accuracy[i])]


def score_masks(request: ScoreRequest) -> MaskScore:
    """Counts every prediction against its label, at the label's own size.

    Raises ConfigError for a class table or options that do not fit, DataError for masks that are missing, doubled,
    damaged, of another size than their label, or hold unknown ids.
    """
    if request.published is not None:
        try:
            published_score(request.published, {})
        except ValueError as err:
            raise ConfigError(f"--published: {err}") from err
    table = class_table(request.classes, request.ignore_ids)
    _check_foreground(request, table)
    labels = find_masks(request.labels, request.label_suffix)
    predictions = find_masks(request.predictions, request.prediction_suffix)
    pairs = pair_masks(labels, predictions)
    masks = [(labels[label_id], predictions[own]) for label_id, own in pairs]
    _refuse_other_ids(request.classes, [label.where for label, _ in masks])
    size = table.num_classes + 1
    total, raw = np.zeros((size, size), np.int64), np.zeros((256, 256), np.int64)
    resized = {px: np.zeros((size, size), np.int64) for px in LONG_SIDES_PX}
    images, boundary, digests, num_resized = [], [], [], 0
    threads = min(MAX_THREADS, num_cores())
    window = 4 * threads  # images in memory at once
    with Progress("score", len(masks), unit="image") as progress, ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(masks), window):
            for image in pool.map(lambda pair: _count(request, table, *pair), masks[first : first + window]):
                total += image.matrix
                raw += image.raw
                for px, matrix in image.resized.items():
                    resized[px] += matrix
                images.append(ImageCounts.of(image.matrix))
                boundary.append(image.boundary)
                digests.append((image.label_digest, image.prediction_digest))
                num_resized += image.was_resized
                progress.advance()
    _refuse_unread_foreground(request, table, raw)
    return MaskScore(
        request,
        table,
        sample_ids=tuple(label_id for label_id, _ in pairs),
        counts=MaskCounts(total, ImageCounts.stacked(images)),
        boundary=np.stack(boundary),
        resized={px: MaskCounts.of([matrix]) for px, matrix in resized.items()},
        raw=raw,
        digests=tuple(digests),
        num_labels=len(labels),
        num_resized=num_resized,
        masks=tuple(masks),
    )


def class_table(classes: str, ignore_ids: Collection[int]) -> ClassTable:
    """Returns the classes of a file or a built-in table, with these ids ignored besides 255.

    255 is not ignored where the table has it as a class, nor by `cityscapes`: only labels of train ids hold it.
    Raises ConfigError for an id that is a class, DataError for a file that is no class table.
    """
    if classes in cityscapes.TABLES:
        return _with_ignored(cityscapes.TABLES[classes], ignore_ids)
    path = _ADE20K if classes == "ade20k" else Path(classes)
    rows = _rows_of_yaml(path) if path.suffix.lower() in (".yaml", ".yml") else read_tsv(path)
    table = ClassTable(
        [row.name for row in rows],
        [row.colour for row in rows],
        file_ids=[row.file_id for row in rows],
        ignore_ids=[0] if classes == "ade20k" else [],
        title=classes if classes == "ade20k" else path.name,
        unknown_hint="add --ignore {value} if it stands for unlabelled pixels, or correct the class table",
    )
    return _with_ignored(table, {*ignore_ids, *({IGNORE} - {*table.file_ids})})


def _rows_of_yaml(path: Path) -> list[Row]:
    """Returns the classes of ultralytics' data.yaml, which names no colours."""
    names = class_names(path, read_file(path))
    if max(names) > IGNORE or len(names) > MAX_CLASSES:
        raise DataError(
            f"{path}: names {len(names)} classes, ids up to {max(names)}; expected at most "
            f"{MAX_CLASSES}, up to {IGNORE}"
        )
    return [Row(own, name, distinct_colour(number)) for number, (own, name) in enumerate(names.items(), start=1)]


def _with_ignored(table: ClassTable, ignore_ids: Collection[int]) -> ClassTable:
    for file_id in ignore_ids:
        if file_id in table.file_ids:
            name = table.names[table.file_ids.index(file_id)]
            raise ConfigError(f"--ignore {file_id}: is the class '{name}' of {table.title}; remove one of them")
        if not 0 <= file_id <= IGNORE:
            raise ConfigError(f"--ignore {file_id}: expected an id within 0..{IGNORE}")
    return ClassTable(
        table.names,
        table.palette,
        file_ids=table.file_ids,
        ignore_ids={*table.ignore_ids, *ignore_ids},
        void_id=table.void_id,
        title=table.title,
        unknown_hint=table.unknown_hint,
    )


def _refuse_other_ids(classes: str, label_files: Sequence[str]) -> None:
    """Raises ConfigError for Cityscapes' labels of one kind of ids and the table of the other kind."""
    kinds = {"cityscapes": "labelIds", "cityscapes-train": "labelTrainIds"}
    for other in kinds.keys() - {classes} if classes in kinds else ():
        files = [file for file in label_files if kinds[other].lower() in Path(file).name.lower()]
        if files:
            raise ConfigError(
                f"{files[0]}: by its name a label of {kinds[other]}, as {len(files)} of {len(label_files)} labels are, "
                f"but --classes {classes} reads {kinds[classes]}; use --classes {other}"
            )


def _check_foreground(request: ScoreRequest, table: ClassTable) -> None:
    own = request.foreground_id
    if own is None:
        return
    if table.num_classes != 2:
        raise ConfigError(f"--foreground {own}: is for tables of two classes; {table.title} has {table.num_classes}")
    if not 0 <= own <= IGNORE or own in (table.file_ids[0], *request.ignore_ids):
        raise ConfigError(
            f"--foreground {own}: expected an id within 0..{IGNORE} that is not '{table.names[0]}' or ignored"
        )


def _refuse_unread_foreground(request: ScoreRequest, table: ClassTable, raw: Counts) -> None:
    """Raises DataError for binary masks of 0 and 255: 255 would be ignored, and only the background be scored.

    raw: as in MaskScore.
    """
    if table.num_classes != 2 or IGNORE in {*table.file_ids, *request.ignore_ids} or request.foreground_id is not None:
        return
    own_id = table.file_ids[1] if request.prediction_ids == "file" else 1
    name, hint = table.names[1], "add --foreground 255 if 255 stands for it, or --ignore 255 if it stands for no class"
    if raw[IGNORE].any() and not raw[1].any():
        raise DataError(
            f"{request.labels}: no label holds {table.file_ids[1]}, the class '{name}', and some hold 255; {hint}"
        )
    if raw[:, IGNORE].any() and not raw[:, own_id].any():
        raise DataError(f"{request.predictions}: no mask holds {own_id}, the class '{name}', and some hold 255; {hint}")


def prediction_lut(table: ClassTable, prediction_ids: PredictionIds) -> Pixels:
    """Returns the train id of each predicted id, u8 `256`: 255 for no class, 254 for an id without a meaning."""
    lut = np.full(256, _UNKNOWN, np.uint8)
    if prediction_ids == "train":
        lut[[own for own in table.ignore_ids if own >= table.num_classes]] = _NO_CLASS
        lut[: table.num_classes] = np.arange(table.num_classes)
    else:
        lut[list(table.ignore_ids)] = _NO_CLASS
        lut[list(table.file_ids)] = np.arange(table.num_classes)
    if IGNORE not in table.file_ids or prediction_ids == "train":
        lut[IGNORE] = _NO_CLASS
    return lut


@dataclass(frozen=True)
class _Image:
    """Counts of one image: `matrix` and `resized` as in MaskCounts.total, the others as in MaskScore."""

    matrix: Counts
    boundary: Counts
    resized: dict[int, Counts]
    raw: Counts
    label_digest: str
    prediction_digest: str
    was_resized: bool


class _Pair(NamedTuple):
    """An image's prediction and label, train ids u8 `H W`. raw: the prediction as it is in its file, u8 `H W`."""

    prediction: Pixels
    label: Pixels
    raw: Pixels
    was_resized: bool


def _read_pair(request: ScoreRequest, table: ClassTable, label_mask: Mask, prediction_mask: Mask) -> _Pair:
    """Reads one image. Raises DataError naming the file."""
    label_ids, raw = label_mask.read(), prediction_mask.read()
    if request.foreground_id is not None:
        own_ids = table.file_ids if request.prediction_ids == "file" else (0, 1)
        label_ids = np.where(label_ids == request.foreground_id, table.file_ids[1], label_ids)
        raw = np.where(raw == request.foreground_id, own_ids[1], raw)
    label = table.to_train(label_ids, label_mask.where)
    was_resized = raw.shape != label.shape
    if was_resized:
        if not request.resize or not raw.size:
            raise DataError(
                f"{prediction_mask.where}: {_size_text(raw)} pixels, but its label has {_size_text(label)}; save "
                "predictions at the label's size (resize the class scores, then take the argmax), or resize these "
                "masks with --resize"
            )
        rows, columns = (
            ((np.arange(length) + 0.5) * own / length).astype(int)
            for length, own in zip(label.shape, raw.shape, strict=True)
        )
        raw = raw[rows[:, None], columns]
    ids = _checked_u8(raw, prediction_mask.where, table, request.prediction_ids)
    return _Pair(prediction_lut(table, request.prediction_ids).take(ids), label, ids, was_resized)


def _checked_u8(raw: Ids, where: str, table: ClassTable, prediction_ids: PredictionIds) -> Pixels:
    """Returns predicted ids as u8. Raises DataError for the first one without a meaning."""
    lut = prediction_lut(table, prediction_ids)
    is_unknown = (raw < 0) | (raw > IGNORE)
    if not is_unknown.any():
        ids = np.ascontiguousarray(raw, np.uint8)
        is_unknown = lut.take(ids) == _UNKNOWN
        if not is_unknown.any():
            return ids
    row, column = (int(index) for index in np.argwhere(is_unknown)[0])
    value, known = int(raw[row, column]), np.flatnonzero(lut != _UNKNOWN).tolist()
    other: PredictionIds = "train" if prediction_ids == "file" else "file"
    predicted = set(np.unique(raw).tolist()) - {IGNORE}
    hints = []
    if predicted <= set(np.flatnonzero(prediction_lut(table, other) != _UNKNOWN).tolist()):
        hints = [f"read the predictions as {other} ids with --prediction-ids {other}"]
    elif {own - 1 for own in predicted} <= set(np.flatnonzero(lut < table.num_classes).tolist()):
        hints = ["subtract 1 from the predicted ids, which seem to be shifted by one"]
    if 0 <= value <= IGNORE and value not in table.file_ids:
        hints.append(f"count {value} as no class with --ignore {value}")
    raise DataError(
        f"{where}: pixel (row {row}, column {column}) holds {value}, but the {prediction_ids} ids of {table.title} are "
        f"{ranges(known)}; {', or '.join(hints or ['correct the predictions or the class table'])}"
    )


def _count(request: ScoreRequest, table: ClassTable, label_mask: Mask, prediction_mask: Mask) -> _Image:
    """Counts one image. Raises DataError naming the file."""
    pair = _read_pair(request, table, label_mask, prediction_mask)
    k, prediction, label = table.num_classes, pair.prediction, pair.label
    resized = {px: _matrix(with_long_side(prediction, px), with_long_side(label, px), k) for px in LONG_SIDES_PX}
    return _Image(
        matrix=_matrix(prediction, label, k),
        boundary=boundary_counts(prediction, label, boundary_width(label.shape), k),
        resized=resized,
        raw=joint_counts(pair.raw, label),
        label_digest=_digest(label),
        prediction_digest=_digest(prediction),
        was_resized=pair.was_resized,
    )


def _matrix(prediction: Pixels, label: Pixels, num_classes: int) -> Counts:
    ids = [*range(num_classes), IGNORE]
    return joint_counts(prediction, label)[np.ix_(ids, ids)]


def _size_text(ids: Ids) -> str:
    return "x".join(map(str, ids.shape))


def _digest(ids: Pixels) -> str:
    """Returns 16 hex digits for train ids `H W` and their size."""
    return hashlib.sha256(str(ids.shape).encode() + ids.tobytes()).hexdigest()[:16]


def _joined(digests: Any) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _coverage_warnings(score: MaskScore) -> list[str]:
    warnings = []
    missing = score.num_labels - len(score.sample_ids)
    if missing:
        warnings.append(
            f"{missing} of {score.num_labels} labels have no prediction. The score holds for the other "
            f"{len(score.sample_ids)} images only and cannot be compared with one over all of them."
        )
    if score.num_resized:
        warnings.append(
            f"{score.num_resized} predictions have another size than their label and were resized to it (nearest "
            "pixel). Scores of masks at the label's size differ from these."
        )
    without_label = int((score.counts.images.target.sum(axis=1) == 0).sum())
    if without_label:
        warnings.append(f"{without_label} images have no labelled pixel, so they do not count.")
    return warnings


def _ids_warnings(score: MaskScore) -> list[str]:
    """Warns where the predictions, read as the other kind of ids, would score far higher."""
    other: PredictionIds = "train" if score.request.prediction_ids == "file" else "file"
    k = score.table.num_classes
    matrix = np.zeros((k, 256), np.int64)
    lut = prediction_lut(score.table, other)
    for raw_id in np.flatnonzero(score.raw.any(axis=0)):
        matrix[:, lut[raw_id]] += score.raw[:k, raw_id]
    other_miou = Confusion(k, np.column_stack([matrix[:, :k], matrix[:, _UNKNOWN:].sum(axis=1)])).miou()
    miou = score.counts.confusion.miou()
    if not (other_miou > miou + 0.05 and other_miou > 1.5 * miou):
        return []
    return [
        f"These masks look like {other} ids: read so, their mIoU is {100 * other_miou:.1f} % instead of "
        f"{100 * miou:.1f} %. Try --prediction-ids {other}."
    ]


def _class_warnings(score: MaskScore) -> list[str]:
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
        warnings.append(
            f"{unassigned:,} labelled pixels ({100 * unassigned / max(1, int(target.sum())):.2f} %) are predicted as "
            "no class (255 or an ignored id). They count as errors in the exact mIoU; definitions differ in this."
        )
    return warnings


def _listed(names: Sequence[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
