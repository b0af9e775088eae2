"""Evaluation of a run on a split: `segnl eval`, `compare` and `inspect` all call `evaluate_run`.

RUN/eval/SPLIT-MODE[-ABLATION]/        the latest result of that name, for people and other programs
    metrics.json                       the scores
    per_image.npz                      every image's confusion matrix (metrics/accumulator.py)
RUN/cache/evaluation-DIGEST.json, .npz the stored result; DIGEST is of weights, data and settings (core/result_cache.py)
RUN/cache/evaluation-DIGEST/ids/       its masks, SAMPLE_ID.png, with the ids of the data set's own files
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from segnl.core.arrays import Counts, Floats, Pixels
from segnl.core.background import Background
from segnl.core.config import JSONDict
from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup
from segnl.core.errors import ConfigError
from segnl.core.files import ensure_writable, inside, not_a_link, sha256_of, write_atomic
from segnl.core.log import log
from segnl.core.result_cache import Record, ResultCache
from segnl.data.base import SegmentationData
from segnl.data.digest import content_digest
from segnl.data.sample import Sample
from segnl.evaluation.evaluate import evaluate
from segnl.evaluation.mask_folder import MaskFolder
from segnl.evaluation.masks import WRITERS, mask_path, read_ids, write_ids
from segnl.evaluation.predictor import predictor_of
from segnl.evaluation.presets import is_preset
from segnl.evaluation.submission import Submission
from segnl.labels.table import ClassTable
from segnl.metrics.accumulator import Accumulator, PerImage
from segnl.metrics.cityscapes_official import Frame, instances_of, score_frames
from segnl.metrics.confusion import Confusion, mean_of_defined, metrics_dict, number_or_none, ratio
from segnl.metrics.strata import boundary_counts, boundary_width, pair_counts
from segnl.models.ablation import Ablation, ablated
from segnl.runs.run import Run

NAME = "evaluation"
VERSION = 1
"""Incremented when the meaning or the computation of the stored counts changes."""
RESULT_FILES = ("metrics.json", "per_image.npz", "strata.png")
"""Files of a result in RUN/eval/SPLIT-MODE; only `segnl eval --strata` draws the last one."""


@dataclass(frozen=True)
class EvaluationRequest:
    """Split to evaluate on, and outputs to produce besides the scores."""

    split: str = "val"
    preset: str | None = None
    """Name of the inference settings that the run was opened with; it names the folder of the results."""
    ablation: Ablation | None = None
    """Applied to the network's attention during the evaluation."""
    with_strata: bool = False
    """Also count errors by place in the image and in the objects (metrics/strata.py)."""
    official: bool = False
    """Also score with cityscapesscripts."""
    masks: Path | None = None
    """Folder for ids, colour masks, overlays and error maps; a killed evaluation resumes from its files."""
    submission: Path | None = None
    """Zip file for a benchmark's server; the split needs no labels then."""


@dataclass(frozen=True)
class Evaluation:
    """Scores, counts and masks of a run on one split; all counts are in the order of sample_ids.

    folder: RUN/eval/SPLIT-MODE. masks: folder of SAMPLE_ID.png. key: everything that the result depends on.
    cache: stores the result, and results computed from it.
    boundary: int64 `images 3 k`, intersection, target and prediction pixels of the classes' boundaries alone.
    pairs: int64 `images pairs 2`, correct and all pixels of ambiguous objects; None if the data set has none.
    is_from_cache: the network did not have to run.
    """

    folder: Path
    masks: Path
    cache: ResultCache
    key: JSONDict
    metrics: JSONDict
    sample_ids: tuple[str, ...]
    per_image: PerImage
    boundary: Counts
    pairs: Counts | None
    is_from_cache: bool = False

    @functools.cached_property
    def _counts(self) -> Counts:
        """Intersection, target and prediction pixels of each class, int64 `images 3 k`."""
        num_classes = self.per_image.num_classes
        confusions = (Confusion(num_classes, self.per_image.matrix(sample_id)) for sample_id in self.sample_ids)
        return np.array([(image.intersection(), image.target(), image.prediction()) for image in confusions])

    @property
    def intersection(self) -> Counts:
        """Correctly predicted pixels of each class, int64 `images k`."""
        return self._counts[:, 0]

    @property
    def target(self) -> Counts:
        """Labelled pixels of each class, int64 `images k`."""
        return self._counts[:, 1]

    @property
    def prediction(self) -> Counts:
        """Labelled pixels predicted as each class, int64 `images k`."""
        return self._counts[:, 2]

    @property
    def union(self) -> Counts:
        """Pixels in label or prediction of each class, int64 `images k`."""
        return self.target + self.prediction - self.intersection

    @property
    def confusion(self) -> Confusion:
        """Confusion matrix over all images."""
        return self.per_image.total()

    def mask(self, i: int, table: ClassTable) -> Pixels:
        """Returns the prediction for image `i`, train ids u8 `H W`."""
        return read_ids(self.masks, self.sample_ids[i], table)

    def error_rate(self) -> Floats:
        """Returns the misclassified fraction of each image's labelled pixels, f64 `images`; NaN without any."""
        return 1 - ratio(self.intersection.sum(axis=1), self.target.sum(axis=1))

    def iou(self) -> Floats:
        """Returns the IoU over the whole split, f64 `k`; NaN for a class in neither label nor prediction."""
        return ratio(self.intersection.sum(axis=0), self.union.sum(axis=0))

    def boundary_iou(self) -> Floats:
        """Returns the boundaries' IoU over the whole split, f64 `k`; NaN for a class in neither label nor prediction.

        A boundary is the pixels of a class within 0.5 % of the image's diagonal from its edge.
        Source: Cheng et al. 2021, "Boundary IoU", arXiv:2103.16562; here for whole classes, not for single objects.
        """
        intersection, target, prediction = self.boundary.sum(axis=0)
        return ratio(intersection, target + prediction - intersection)

    def pair_accuracy(self) -> Floats | None:
        """Returns the correctly predicted fraction of each ambiguous pair's pixels, f64 `pairs`; None without pairs."""
        if self.pairs is None:
            return None
        correct, total = self.pairs.sum(axis=0).T
        return ratio(correct, total)

    def most_frequent_class(self) -> tuple[int, float]:
        """Returns the class with most labelled pixels, and the mIoU of predicting it everywhere."""
        target = self.target.sum(axis=0)
        return int(target.argmax()), float(ratio(target.max(), target.sum()) / max(1, int((target > 0).sum())))


def evaluate_run(
    run: Run, request: EvaluationRequest | None = None, *, group: ProcessGroup = SINGLE_PROCESS
) -> Evaluation:
    """Evaluates a run on a split, or returns its stored result if weights, data and settings are unchanged.

    Writes the result to RUN/eval/SPLIT-MODE, or to SPLIT-PRESET if the settings are a preset's. An old result is
    removed before the network runs, so a killed evaluation leaves none.
    group: each process evaluates its own images; all return the same evaluation.

    Raises ConfigError for a request that this run or data set does not support, CheckpointError when the data set has
    other classes, DataError for a damaged image, MachineError when a folder cannot be written.
    """
    request = request or EvaluationRequest()
    data = group.run_on_all(lambda: _open_data(run, request, group))
    key, stored = group.run_on_rank0(lambda: _look_up(run, request, data))
    has_strata = stored is not None and "strata" in stored.value
    if stored is None or request.masks or request.submission or (request.with_strata and not has_strata):
        record = _EvaluationPass(run, request, data, key, stored, group).record()
    else:
        record = stored
    return group.run_on_rank0(lambda: _finish(run, request, data, record, stored))


def _open_data(run: Run, request: EvaluationRequest, group: ProcessGroup) -> SegmentationData:
    """Opens the split's data. Fails before hours of work if the request cannot be met."""
    if request.submission and group.world_size > 1:
        raise ConfigError("--submission: needs a single process; score without torchrun")
    data = run.open_data(request.split, needs_labels=request.submission is None)
    if request.official:
        if not data.has_cityscapes_layout:
            raise ConfigError("--official: needs a data set in Cityscapes' layout")
        if not data.has_labels:
            raise ConfigError(f"--official: {data.root} has no labels for split '{data.split}'; leave it out")
        if data.table.has_label_map:
            raise ConfigError("--official: scores Cityscapes' own classes; leave out data.label_map")
        for i in range(len(data)):
            instances_of(data.label_path(i))
    for folder in (_results_folder(run, request), run.cache.folder, *([request.masks] if request.masks else [])):
        ensure_writable(folder)
    return data


def _own_preset(run: Run, request: EvaluationRequest) -> str | None:
    """Returns the preset's name; None without a preset, or if overrides have changed its settings."""
    return request.preset if request.preset and is_preset(request.preset, run.recipe.eval) else None


def _results_folder(run: Run, request: EvaluationRequest) -> Path:
    parts = [request.split, _own_preset(run, request) or run.recipe.eval.mode]
    parts += [request.ablation.slug] if request.ablation else []
    folder = inside(not_a_link(run.folder / "eval"), "-".join(parts))
    return folder if run.is_last_checkpoint else folder / run.checkpoint.path.stem


def evaluation_key(run: Run, data: SegmentationData, ablation: Ablation | None = None) -> JSONDict:
    """Returns a description of everything that predictions and counts depend on.

    eval.batch_size is left out: it changes no score, and a rerun may need a smaller one.
    """
    recipe = run.recipe.to_dict()
    return {
        "version": VERSION,
        "checkpoint": {"step": run.checkpoint.step, "checksum": run.checkpoint.checksum},
        "data": {
            "name": run.recipe.data.name,
            "split": data.split,
            "has_labels": data.has_labels,
            "short_side_px": run.recipe.data.short_side_px,
            "content": content_digest(data),
        },
        "eval": {name: value for name, value in recipe["eval"].items() if name != "batch_size"},
        "channels_last": run.recipe.train.channels_last,
        "ablation": ablation.name if ablation else None,
    }


def _look_up(run: Run, request: EvaluationRequest, data: SegmentationData) -> tuple[JSONDict, Record | None]:
    """Returns the result's key and the stored result; None if there is none or its masks have changed.

    Without a stored result, an earlier one is removed from RUN/eval, so that it is not mistaken for the new one.
    """
    key = evaluation_key(run, data, request.ablation)
    record = run.cache.load(NAME, key)
    if record is not None and record.value["masks"] == _masks_digest(_masks_folder(run, key), data):
        return key, record
    _remove_results(_results_folder(run, request))
    return key, None


def _masks_folder(run: Run, key: JSONDict) -> Path:
    return run.cache.path(NAME, key).with_suffix("") / "ids"


def _masks_digest(masks: Path, data: SegmentationData) -> str | None:
    """Returns the SHA-256 of the mask files; None if one is missing.

    It detects masks damaged by a power cut, so the masks need not be synced to disk one by one.
    """
    paths = [mask_path(masks, sample_id) for sample_id in data.sample_ids]
    if not all(path.is_file() for path in paths):
        return None
    return hashlib.sha256("\n".join(map(sha256_of, paths)).encode()).hexdigest()


@dataclass(frozen=True)
class _EvaluationPass:
    """One pass over a split, which counts and writes the requested masks.

    stored: a valid result, whose masks are read instead of running the network.
    """

    run: Run
    request: EvaluationRequest
    data: SegmentationData
    key: JSONDict
    stored: Record | None
    group: ProcessGroup

    @property
    def masks(self) -> Path:
        return _masks_folder(self.run, self.key)

    def record(self) -> Record:
        """Returns the result with the counts of all processes."""
        data, group = self.data, self.group
        accumulator = Accumulator(data.table.num_classes, with_strata=self.request.with_strata)
        more_counts: dict[str, dict[str, Counts]] = {}
        index_of = {sample_id: i for i, sample_id in enumerate(data.sample_ids)}
        with Background(WRITERS, max_pending=2 * WRITERS) as writers:
            mask_folder = self._mask_folder(writers)
            submission = self.request.submission and Submission(self.request.submission, data, writers)

            def on_result(sample: Sample, labels: Tensor) -> None:
                mask = labels.numpy()
                if self.stored is None:
                    more_counts[sample.id] = _boundary_and_pairs(data, index_of[sample.id], mask, sample.label)
                    path = mask_path(self.masks, sample.id)
                    writers.submit(functools.partial(write_ids, path, mask, data.table))
                if mask_folder is not None:
                    mask_folder.write(sample, labels)
                if submission:
                    submission.add(sample, labels)

            predictor = predictor_of(self.run)
            ablation = self.request.ablation
            with ablated(predictor.model, ablation) if ablation else nullcontext():
                self._log_start(mask_folder)
                evaluate(
                    predictor,
                    data,
                    recipe=self.run.recipe,
                    on_result=on_result,
                    accumulator=accumulator,
                    cached_labels=functools.partial(self._cached_labels, mask_folder),
                    group=group,
                )
            group.run_on_all(writers.wait)
        if submission:
            submission.write()
        value = dict(self.stored.value) if self.stored else {}
        if accumulator.strata is not None:
            value["strata"] = accumulator.strata.to_dict()
        if self.stored is not None:
            return self.stored if value == self.stored.value else replace(self.stored, value=value)
        for counts in group.all_gather_object(more_counts):
            more_counts |= counts
        arrays = accumulator.per_image.to_arrays()
        for name in more_counts[data.sample_ids[0]]:
            arrays[name] = np.stack([more_counts[sample_id][name] for sample_id in data.sample_ids])
        value["metrics"] = metrics_dict(
            accumulator.confusion,
            data.table.names,
            num_images=len(data),
            counts_absent_classes=data.counts_absent_classes,
        )
        value["masks"] = group.run_on_rank0(lambda: _masks_digest(self.masks, data))
        return Record(self.key, value, arrays)

    def _mask_folder(self, writers: Background) -> MaskFolder | None:
        """Opens the --masks folder on rank 0 first, because that removes what a killed evaluation left half written."""
        if self.request.masks is None:
            return None
        make = functools.partial(MaskFolder, self.request.masks, self.key, self.data, writers)
        of_rank0 = self.group.run_on_all(lambda: make() if self.group.is_rank0 else None)
        of_others = self.group.run_on_all(lambda: None if self.group.is_rank0 else make())
        return of_rank0 or of_others

    def _cached_labels(self, mask_folder: MaskFolder | None, sample: Sample) -> Pixels | None:
        """Returns a stored prediction, train ids u8 `H W`; None if the network has to run."""
        resumed = mask_folder.cached_labels(sample) if mask_folder is not None else None
        return resumed if self.stored is None else read_ids(self.masks, sample.id, self.data.table)

    def _log_start(self, mask_folder: MaskFolder | None) -> None:
        if not self.group.is_rank0:
            return
        if mask_folder is not None and mask_folder.written_ids:
            num = len(mask_folder.written_ids)
            log.info("%s: resumes, %d of %d images have their masks", mask_folder.folder, num, len(self.data))
        elif self.stored is None:
            ablation = self.request.ablation
            suffix = f", ablation {ablation.name}: {ablation.meaning}" if ablation else ""
            log.info("%s: evaluating on %s%s", self.run.folder, self.data.split, suffix)


def _boundary_and_pairs(data: SegmentationData, i: int, mask: Pixels, label: Pixels) -> dict[str, Counts]:
    counts = {"boundary": boundary_counts(mask, label, boundary_width(mask.shape), data.table.num_classes)}
    if data.ambiguous_pairs and data.has_labels:
        counts["pairs"] = pair_counts(mask, label, data.ambiguous_mask(i), len(data.ambiguous_pairs))
    return counts


def _finish(
    run: Run, request: EvaluationRequest, data: SegmentationData, record: Record, stored: Record | None
) -> Evaluation:
    """Adds the official scores if requested, stores a new result, and writes it to RUN/eval."""
    masks = _masks_folder(run, record.key)
    if request.official and "official" not in record.value:
        labels = [data.label_path(i) for i in range(len(data))]
        predictions = [mask_path(masks, sample_id) for sample_id in data.sample_ids]
        frames = [Frame(*files, instances_of(files[1])) for files in zip(predictions, labels, strict=True)]
        official = score_frames(frames)
        record = replace(record, value=record.value | {"official": official})
    if record is not stored:
        run.cache.store(NAME, record)
    arrays, optional = (
        record.arrays,
        {name: record.value[name] for name in ("strata", "official") if name in record.value},
    )
    metrics = record.value["metrics"] | {
        "checkpoint": run.checkpoint.path.name,
        "step": run.checkpoint.step,
        "split": data.split,
        "eval": run.recipe.to_dict()["eval"],
        "preset": _own_preset(run, request),
        "ablation": request.ablation.name if request.ablation else None,
        "git": run.checkpoint.origin["git"],
        "cache": masks.parent.name,
    }
    evaluation = Evaluation(
        folder=_results_folder(run, request),
        masks=masks,
        cache=run.cache,
        key=record.key,
        metrics=metrics | optional,
        sample_ids=tuple(data.sample_ids),
        per_image=PerImage.from_arrays(arrays),
        boundary=arrays["boundary"],
        pairs=arrays.get("pairs"),
        is_from_cache=stored is not None,
    )
    evaluation.metrics["boundary_iou"] = number_or_none(mean_of_defined(evaluation.boundary_iou()))
    evaluation.metrics.update(_ambiguous_dict(evaluation, data.ambiguous_pairs))
    _write_results(evaluation)
    return evaluation


def _write_results(evaluation: Evaluation) -> None:
    """Writes the result to RUN/eval/SPLIT-MODE; metrics.json comes last, so it implies the other files."""
    file = evaluation.folder / "metrics.json"
    try:
        last_result = json.loads(file.read_bytes())["cache"]
    except (OSError, ValueError, KeyError, TypeError):
        last_result = None
    if last_result != evaluation.metrics["cache"]:
        _remove_results(evaluation.folder)
    evaluation.per_image.save(evaluation.folder / "per_image.npz")
    write_atomic(file, json.dumps(evaluation.metrics, indent=1).encode())


def _remove_results(folder: Path) -> None:
    for name in RESULT_FILES:
        (folder / name).unlink(missing_ok=True)


def _ambiguous_dict(evaluation: Evaluation, pairs: Sequence[str]) -> JSONDict:
    """Returns {"ambiguous": {"mean": over the pairs, "pairs": {name: fraction correct or null}}}; {} without pairs."""
    accuracy = evaluation.pair_accuracy()
    if accuracy is None:
        return {}
    by_name = dict(zip(pairs, map(number_or_none, accuracy), strict=True))
    defined = [value for value in by_name.values() if value is not None]
    return {"ambiguous": {"mean": sum(defined) / len(defined) if defined else None, "pairs": by_name}}
