"""What a run predicts on a split: found once, kept in the run's folder, and found again as long as nothing changed.

RUN/eval/SPLIT-MODE[-ABLATION]/
                    ids/STEM.png   the masks, in the ids of the data set's files
                    counts.npz     per image and class: pixels right, true, predicted, and the same near boundaries;
                                   per ambiguous pair: right, all
                    metrics.json   the scores, as `segnl eval` writes them
                    kept.json      what all this belongs to; written last: a broken-off evaluation counts as none
"""

import io
import json
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from segnl.core.arrays import Counts, Floats, Pixels
from segnl.core.config import JSONDict
from segnl.core.errors import CheckpointError, MachineError
from segnl.core.files import NPZ_FAULTS, ensure_writable, sha256_of, write_atomic
from segnl.data.base import SegmentationData
from segnl.data.digest import files_digest
from segnl.data.reading import read_label
from segnl.data.sample import Sample
from segnl.evaluation.evaluate import evaluate
from segnl.evaluation.masks import png
from segnl.evaluation.predictor import predictor_of
from segnl.labels.table import ClassTable
from segnl.metrics.confusion import Confusion, mean_of_defined, ratio
from segnl.metrics.report import metrics_dict
from segnl.metrics.strata import boundary_counts, boundary_width, pair_counts
from segnl.models.ablation import Ablation, ablated
from segnl.runs.build import build_data
from segnl.runs.checkpoint import Checkpoint, checkpoints_of
from segnl.runs.recipe import Recipe
from segnl.streets.pairs import PAIRS

RESULTS = ("metrics.json", "per_image.npz", "strata.png")
"""What `segnl eval` puts into the same folder."""

VERSION = 3
"""Raised when what is kept changes its meaning."""


@dataclass(frozen=True)
class Predictions:
    """A run's masks and counts on one split.

    right, true, predicted: int64 `images k`, pixels.  boundary: int64 `images 3 k`, the same of boundaries alone: right
    on both, on the truth's, on the prediction's.  pairs: int64 `images pairs 2`, pixels right and all of the ambiguous
    objects, None where the data set has none.
    """

    folder: Path
    sample_ids: tuple[str, ...]
    metrics: JSONDict
    right: Counts
    true: Counts
    predicted: Counts
    pairs: Counts | None
    boundary: Counts | None = None

    def mask(self, i: int, table: ClassTable) -> Pixels:
        """The prediction for image `i`, train ids u8 `H W`."""
        path = _mask_path(self.folder, self.sample_ids[i])
        return table.to_train(read_label(path), str(path))

    def wrong(self) -> Floats:
        """The share of each image's labelled pixels that is predicted wrong, f64 `images`."""
        return 1 - ratio(self.right.sum(axis=1), self.true.sum(axis=1))

    def iou(self) -> Floats:
        """Over the whole split, f64 `k`; NaN for a class in neither truth nor prediction."""
        right, true, predicted = (counts.sum(axis=0) for counts in (self.right, self.true, self.predicted))
        return ratio(right, true + predicted - right)

    def boundary_iou(self) -> Floats | None:
        """IoU of the boundaries over the whole split, f64 `k`; NaN for a class in neither truth nor prediction.

        Source: Cheng et al. 2021, "Boundary IoU", arXiv:2103.16562; here of whole classes, not of single objects. A
        boundary is a mask's pixels within 0.5 % of the image's diagonal of its edge.
        """
        if self.boundary is None:
            return None
        right, true, predicted = self.boundary.sum(axis=0)
        return ratio(right, true + predicted - right)

    def commonest_class(self) -> tuple[int, float]:
        """The class with most pixels in the truth, and the mIoU of predicting it everywhere."""
        true = self.true.sum(axis=0)
        return int(true.argmax()), float(ratio(true.max(), true.sum()) / max(1, int((true > 0).sum())))

    def pair_accuracy(self) -> Floats | None:
        """The share of each ambiguous pair's pixels that is right, f64 `pairs`."""
        if self.pairs is None:
            return None
        right, total = self.pairs.sum(axis=0).T
        return ratio(right, total)


def keep_predictions(
    checkpoint: Checkpoint, recipe: Recipe, split: str, ablation: Ablation | None = None
) -> Predictions:
    """The checkpoint's predictions on a split, from its run's folder if they are there, else made and put there.

    ablation: what is done to its attention meanwhile. Raises CheckpointError when the data set has other classes than
    the checkpoint, ConfigError where its head has no such ablation.
    """
    data = build_data(recipe, split)
    if checkpoint.classes["names"] != list(data.table.names):
        raise CheckpointError(
            f"{checkpoint.path}: predicts {len(checkpoint.classes['names'])} classes, but {recipe.data.root} has "
            f"{data.table.num_classes} or others; use the data set it was trained on"
        )
    name = f"{split}-{recipe.eval.mode}" + (f"-{ablation.slug}" if ablation else "")
    folder = checkpoint.path.parent / "eval" / name
    if checkpoints_of(checkpoint.path.parent)[:1] != [checkpoint.path]:
        folder /= checkpoint.path.stem  # not the run's last one, whose place that is
    belongs_to = _belongs_to(checkpoint, recipe, data) | ({"ablation": ablation.name} if ablation else {})
    return _kept(folder, belongs_to) or _made(folder, belongs_to, checkpoint, recipe, data, ablation)


def _belongs_to(checkpoint: Checkpoint, recipe: Recipe, data: SegmentationData) -> JSONDict:
    """All that the predictions depend on; read back from JSON, for tuples become lists on the way."""
    mapping = {
        "version": VERSION,
        "checkpoint": sha256_of(checkpoint.path),
        "eval": recipe.to_dict()["eval"],
        "images": files_digest(data),
    }
    found: JSONDict = json.loads(json.dumps(mapping))
    return found


def _kept(folder: Path, belongs_to: JSONDict) -> Predictions | None:
    try:
        mapping = json.loads((folder / "kept.json").read_text(encoding="utf-8"))
        if mapping["belongs_to"] != belongs_to:
            return None
        with np.load(folder / "counts.npz", allow_pickle=False) as arrays:
            counts = {name: arrays[name] for name in arrays.files}
        sample_ids = tuple(mapping["stems"])
        if not all(_mask_path(folder, sample_id).exists() for sample_id in sample_ids):
            return None
        return _predictions(folder, sample_ids, mapping["metrics"], counts)
    except NPZ_FAULTS:
        return None  # broken off, or of an earlier version: it is made again


def _predictions(
    folder: Path, sample_ids: tuple[str, ...], metrics: JSONDict, counts: dict[str, Counts]
) -> Predictions:
    right, true, predicted = (counts[name] for name in ("right", "true", "predicted"))
    return Predictions(folder, sample_ids, metrics, right, true, predicted, counts.get("pairs"), counts["boundary"])


def _made(
    folder: Path,
    belongs_to: JSONDict,
    checkpoint: Checkpoint,
    recipe: Recipe,
    data: SegmentationData,
    ablation: Ablation | None,
) -> Predictions:
    how = f", {ablation.meaning}" if ablation else ""
    print(f"{checkpoint.path.parent}: scoring on {data.split}{how}", flush=True)
    ensure_writable(folder)
    for old in ("kept.json", *RESULTS):
        (folder / old).unlink(missing_ok=True)
    (folder / "ids").mkdir(exist_ok=True)
    names = data.table.names
    per_image: dict[str, list[Counts]] = {"right": [], "true": [], "predicted": []}
    pairs: list[Counts] = []
    boundary: list[Counts] = []

    def keep(sample: Sample, predicted: Tensor) -> None:
        mask = predicted.cpu().numpy()
        alone = Confusion(len(names))
        alone.update(mask, sample.label)
        per_image["right"].append(alone.intersection())
        per_image["true"].append(alone.target())
        per_image["predicted"].append(alone.prediction())
        boundary.append(boundary_counts(mask, sample.label, boundary_width(mask.shape), len(names)))
        if data.ambiguous_pairs:
            pairs.append(pair_counts(mask, sample.label, data.ambiguous_mask(len(pairs)), len(data.ambiguous_pairs)))
        _write_mask(_mask_path(folder, sample.id), data.table.to_file(mask))

    predictor = predictor_of(checkpoint, recipe)
    with ablated(predictor.model, ablation) if ablation else nullcontext():
        confusion = evaluate(predictor, data, recipe=recipe, on_result=keep)
    counts = {name: np.stack(count) for name, count in [*per_image.items(), ("boundary", boundary)]}
    if pairs:
        counts["pairs"] = np.stack(pairs)
    metrics = metrics_dict(confusion, names, num_images=len(data), counts_absent_classes=data.counts_absent_classes)
    metrics |= {
        "checkpoint": checkpoint.path.name,
        "step": checkpoint.step,
        "split": data.split,
        "eval": recipe.to_dict()["eval"],
        "ablation": ablation.name if ablation else None,
        "git": checkpoint.origin["git"],
    }
    made = _predictions(folder, tuple(data.sample_ids), metrics, counts)
    metrics |= boundary_dict(made) | ambiguous_dict(made)
    packed = io.BytesIO()
    np.savez_compressed(packed, **counts)  # type: ignore[arg-type]  # its stub knows arrays by name only as positional
    write_atomic(folder / "counts.npz", packed.getvalue())
    write_atomic(folder / "metrics.json", json.dumps(metrics, indent=1).encode())
    os.sync()  # the masks, which were not synced one by one, come to the disk before what says that they are there
    mapping = {"belongs_to": belongs_to, "stems": data.sample_ids, "metrics": metrics}
    write_atomic(folder / "kept.json", json.dumps(mapping).encode())
    return made


def _mask_path(folder: Path, sample_id: str) -> Path:
    return folder / "ids" / f"{sample_id}.png"


def _write_mask(path: Path, ids: Pixels) -> None:
    # Not atomically: until kept.json is there, which comes after all of them, nobody reads one.
    try:
        path.write_bytes(png(ids))
    except OSError as err:
        raise MachineError(f"{path}: cannot be written ({err.strerror}); free some space") from err


def boundary_dict(predictions: Predictions) -> JSONDict:
    """{"boundary_iou": mean over the classes that occur, or null}."""
    iou = predictions.boundary_iou()
    mean = np.nan if iou is None else mean_of_defined(iou)
    return {"boundary_iou": float(mean) if np.isfinite(mean) else None}


def ambiguous_dict(predictions: Predictions) -> JSONDict:
    """{"ambiguous": {"mean": over the pairs, "pairs": {name: share right or null}}}; {} where there are no pairs."""
    accuracy = predictions.pair_accuracy()
    if accuracy is None:
        return {}
    plain = [float(value) if np.isfinite(value) else None for value in accuracy]
    each = dict(zip((pair.name for pair in PAIRS), plain, strict=True))
    known = [value for value in each.values() if value is not None]
    return {"ambiguous": {"mean": sum(known) / len(known) if known else None, "pairs": each}}
