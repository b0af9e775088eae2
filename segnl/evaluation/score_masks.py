"""Scores of masks that any toolkit wrote: the exact numbers, and what other definitions give. Imports no torch."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segnl.core import IGNORE
from segnl.core.arrays import Counts, Floats, Pixels
from segnl.core.errors import ConfigError
from segnl.core.files import utf8
from segnl.core.limits import num_cores
from segnl.core.progress import Progress
from segnl.data.mask_files import CategoryIds, Mask, find_masks, pair_masks
from segnl.evaluation.score_classes import class_ids, class_table
from segnl.evaluation.score_pair import PairReader
from segnl.evaluation.score_request import LABEL_KINDS, check_foreground, refuse_other_ids, refuse_unread_foreground
from segnl.evaluation.score_request import ScoreRequest as ScoreRequest
from segnl.evaluation.score_warnings import class_warnings, coverage_warnings, ids_warnings, pairing_warnings
from segnl.labels.table import ClassTable
from segnl.metrics.confusion import joint_counts, mean_of_defined, metrics_dict, number_or_none, ratio
from segnl.metrics.definitions import DEFINITIONS, PublishedScore, definition_scores, published_score, with_long_side
from segnl.metrics.mask_counts import ImageCounts, MaskCounts
from segnl.metrics.scored_counts import ScoredCounts, mask_digest
from segnl.metrics.strata import boundary_counts, boundary_width

LONG_SIDES_PX = tuple(own.long_side_px for own in DEFINITIONS if own.long_side_px is not None)
MAX_THREADS = 8
NO_SETTINGS = ("predictions", "labels", "published")
"""Keys of a request that stand elsewhere in the JSON."""


@dataclass(frozen=True)
class MaskScore:
    """Counts of scored masks and what follows from them.

    boundary: int64 `n 3 k`, as `boundary_counts` gives them. resized: counts at the sizes that definitions need.
    raw: int64 `256 256`, pixels by label (train id) and prediction (as in its file). digests: of each image's label and
    prediction. unpaired: the ids of labels without a prediction. num_resized: how many predictions were
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
    unpaired: tuple[str, ...]
    num_resized: int
    masks: tuple[tuple[Mask, Mask], ...]

    @property
    def num_labels(self) -> int:
        return len(self.sample_ids) + len(self.unpaired)

    @cached_property
    def definitions(self) -> dict[str, float]:
        """Every definition's number by name, a fraction; NaN where the original prints none."""
        return definition_scores(self.counts, self.resized)

    @cached_property
    def published(self) -> PublishedScore | None:
        """The scores that the published number fits; None without one."""
        text = self.request.published
        return published_score(text, self.definitions, self.other_scores) if text else None

    @cached_property
    def other_scores(self) -> dict[str, float]:
        """Scores that are published too and that no definition is, in words; fractions."""
        confusion, names = self.counts.confusion, self.table.names
        by_class = {"IoU": confusion.iou(), "F1 (Dice)": confusion.f1(), "boundary IoU": self.boundary_iou}
        by_class |= {"accuracy (recall)": confusion.recall(), "precision": confusion.precision()}
        scores = {
            f"the {title} of the class '{name}' alone": value
            for title, values in by_class.items()
            for name, value in zip(names, values.tolist(), strict=True)
        }
        scores["the mean boundary IoU"] = mean_of_defined(self.boundary_iou)
        if len(names) > 2:
            scores[f"the mean IoU without the first class, '{names[0]}'"] = mean_of_defined(confusion.iou()[1:])
        else:
            source = "segmentation_models_pytorch with mode='binary', reduction='micro-imagewise'"
            for title, value in zip(("IoU", "Dice"), self.foreground_image_means, strict=True):
                scores[f"the mean over images of the {title} of '{names[1]}' ({source})"] = value
        return scores

    @property
    def foreground_image_means(self) -> tuple[float, float]:
        """Mean over images of IoU and of Dice of the second class; 1 for an image without it."""
        images = self.counts.images
        iou = np.nan_to_num(ratio(images.intersection, images.union), nan=1.0)[:, 1]
        return float(iou.mean()), float((2 * iou / (1 + iou)).mean())

    @property
    def boundary_iou(self) -> Floats:
        """IoU of the classes' boundaries, f64 `k`; NaN for a class in neither label nor prediction."""
        intersection, target, prediction = self.boundary.sum(axis=0)
        return ratio(intersection, target + prediction - intersection)

    @cached_property
    def warnings(self) -> list[str]:
        """Sentences about masks that look wrong."""
        return [*self.doubts, *class_warnings(self)]

    @cached_property
    def doubts(self) -> list[str]:
        """The warnings that say that this may not be the score of these predictions over the whole data set."""
        return [*coverage_warnings(self), *pairing_warnings(self), *ids_warnings(self)]

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of the --json file: fractions, null for undefined."""
        names = self.table.names
        metrics = metrics_dict(self.counts.confusion, names, num_images=len(self.sample_ids))
        del metrics["complete"]  # it comes last
        boundary = dict(zip(names, map(number_or_none, self.boundary_iou.tolist()), strict=True))
        columns = self.counts.images.miou.tolist(), self.counts.images.accuracy.tolist()
        per_image = {
            sample_id: {"miou": number_or_none(miou), "pixel_acc": number_or_none(accuracy)}
            for sample_id, miou, accuracy in zip(self.sample_ids, *columns, strict=True)
        }
        published = self.published and asdict(self.published)
        labels_digest, predictions_digest = (
            hashlib.sha256("\n".join(digests).encode()).hexdigest() for digests in zip(*self.digests, strict=True)
        )
        return metrics | {
            "boundary_iou": number_or_none(mean_of_defined(self.boundary_iou)),
            "per_class_boundary_iou": boundary,
            "definitions": {name: number_or_none(value) for name, value in self.definitions.items()},
            "published": published,
            "per_image": per_image,
            "warnings": self.warnings,
            "num_labels": self.num_labels,
            "unpaired": self.unpaired,
            "settings": {key: value for key, value in asdict(self.request).items() if key not in NO_SETTINGS},
            "predictions": str(self.request.predictions),
            "labels": str(self.request.labels),
            "labels_digest": labels_digest,
            "predictions_digest": predictions_digest,
            "complete": True,
        }

    def scored_counts(self) -> ScoredCounts:
        """Returns the counts of every image, for `segnl compare`."""
        images = self.counts.images
        label_digests, prediction_digests = zip(*self.digests, strict=True)
        return ScoredCounts(
            source=utf8(str(self.request.predictions)),
            sample_ids=self.sample_ids,
            class_names=self.table.names,
            intersection=images.intersection,
            target=images.target,
            union=images.union,
            label_digests=label_digests,
            prediction_digests=prediction_digests,
            warnings=tuple(self.doubts),
        )

    def read(self, i: int) -> tuple[Pixels, Pixels]:
        """Returns the prediction and the label of image `i`, train ids u8 `H W`."""
        pair = PairReader(self.request, self.table).read(*self.masks[i])
        return pair.prediction, pair.label

    def worst(self, num: int) -> list[int]:
        """Returns the `num` images with the lowest mIoU; none without labelled pixels."""
        miou = self.counts.images.miou
        return [int(i) for i in np.argsort(miou, kind="stable")[:num] if np.isfinite(miou[i])]  # NaN last


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
    table = class_table(request.classes, request.ignore_ids, request.prediction_ids)
    check_foreground(request, table)
    labels = find_masks(
        request.labels, request.label_suffix, _category_ids(table, table.file_ids), prefix=request.label_prefix
    )
    predictions = find_masks(
        request.predictions,
        request.prediction_suffix,
        _category_ids(table, class_ids(table, request.prediction_ids)),
        prefix=request.prediction_prefix,
        reference=request.labels,
    )
    files = [label.where for label in labels.values()]
    kind = LABEL_KINDS.get(request.classes, "")
    if not any(kind.lower() in Path(file).name.lower() for file in files):
        refuse_other_ids(request.classes, files)
    pairs = pair_masks(labels, predictions, request.folder_ends, kind)
    masks = [(labels[label_id], predictions[own]) for label_id, own in pairs]
    refuse_other_ids(request.classes, [label.where for label, _ in masks])
    reader, size = PairReader(request, table), table.num_classes + 1
    total, raw = np.zeros((size, size), np.int64), np.zeros((256, 256), np.int64)
    resized = {px: np.zeros((size, size), np.int64) for px in LONG_SIDES_PX}
    images, boundary, digests, num_resized = [], [], [], 0
    threads = min(MAX_THREADS, num_cores())
    window = 4 * threads  # images in memory at once
    with Progress("score", len(masks), unit="image") as progress, ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(masks), window):
            for image in pool.map(lambda pair: _count(reader, *pair), masks[first : first + window]):
                total += image.matrix
                raw += image.raw
                for px, matrix in image.resized.items():
                    resized[px] += matrix
                images.append(ImageCounts.of(image.matrix))
                boundary.append(image.boundary)
                digests.append((image.label_digest, image.prediction_digest))
                num_resized += image.was_resized
                progress.advance()
    refuse_unread_foreground(request, table, raw)
    return MaskScore(
        request,
        table,
        sample_ids=tuple(label_id for label_id, _ in pairs),
        counts=MaskCounts(total, ImageCounts.stacked(images)),
        boundary=np.stack(boundary),
        resized={px: MaskCounts.of([matrix]) for px, matrix in resized.items()},
        raw=raw,
        digests=tuple(digests),
        unpaired=tuple(sorted(labels.keys() - {label_id for label_id, _ in pairs})),
        num_resized=num_resized,
        masks=tuple(masks),
    )


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


def _category_ids(table: ClassTable, own_ids: Sequence[int]) -> CategoryIds:
    return CategoryIds(table.title, dict(zip(table.names, own_ids, strict=True)), table.ignore_ids)


def _count(reader: PairReader, label_mask: Mask, prediction_mask: Mask) -> _Image:
    """Counts one image. Raises DataError naming the file."""
    pair = reader.read(label_mask, prediction_mask)
    k, prediction, label = reader.table.num_classes, pair.prediction, pair.label
    resized = {px: _matrix(with_long_side(prediction, px), with_long_side(label, px), k) for px in LONG_SIDES_PX}
    return _Image(
        matrix=_matrix(prediction, label, k),
        boundary=boundary_counts(prediction, label, boundary_width(label.shape), k),
        resized=resized,
        raw=joint_counts(pair.raw, label),
        label_digest=mask_digest(label),
        prediction_digest=mask_digest(prediction),
        was_resized=pair.was_resized,
    )


def _matrix(prediction: Pixels, label: Pixels, num_classes: int) -> Counts:
    ids = [*range(num_classes), IGNORE]
    return joint_counts(prediction, label)[np.ix_(ids, ids)]
