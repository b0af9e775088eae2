"""Evaluation of a run on a split: `segnl eval`, `compare` and `inspect` all call `evaluate_run`.

RUN/eval/SPLIT-MODE[-ABLATION]/        the latest result of that name, for people and other programs
    metrics.json                       the scores
    per_image.npz                      every image's confusion matrix (metrics/accumulator.py)
RUN/cache/evaluation-DIGEST.json, .npz the stored result; DIGEST is of weights, data and settings (core/result_cache.py)
RUN/cache/evaluation-DIGEST/ids/       its masks, SAMPLE_ID.png, with the ids of the data set's own files
"""

import functools
import json
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from segnl.core.arrays import Counts, Pixels
from segnl.core.background import Background
from segnl.core.config import JSONDict
from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup
from segnl.core.errors import ConfigError, DataError
from segnl.core.files import (
    LEFTOVER_AGE_S,
    ensure_writable,
    inode,
    inside,
    not_a_link,
    read_json,
    remove_leftovers,
    run_lock,
    write_atomic,
)
from segnl.core.log import log
from segnl.core.result_cache import Record, has_form
from segnl.data.base import SegmentationData
from segnl.data.digest import digests_of
from segnl.data.sample import Sample
from segnl.evaluation.evaluate import evaluate
from segnl.evaluation.evaluation import Evaluation
from segnl.evaluation.kept_maps import kept_maps_of
from segnl.evaluation.mask_folder import MaskFolder
from segnl.evaluation.masks import WRITERS, mask_path, masks_digest, read_ids, write_ids
from segnl.evaluation.predictor import predictor_of
from segnl.evaluation.presets import Preset
from segnl.evaluation.submission import Submission
from segnl.metrics.accumulator import PerImage
from segnl.metrics.cityscapes_official import CityscapesScores, Frame, score_frames
from segnl.metrics.confusion import Confusion, mean_of_defined, metrics_dict, number_or_none
from segnl.metrics.scalars.find import metric_values
from segnl.metrics.strata import Strata, boundary_counts, boundary_iou, boundary_width, pair_accuracy, pair_counts
from segnl.models.ablation import Ablation, ablated
from segnl.runs.run import Run

NAME = "evaluation"
VERSION = 1
"""Incremented when the meaning or the computation of the stored counts changes."""
FILE_KEYS = (
    *("name", "image_folder", "label_folder", "image_suffix", "label_suffix"),
    *("recursive", "splits", "samples", "fold"),
)
"""Keys under `data`, besides root, that say which files a split has."""
RESULT_FILES = ("metrics.json", "per_image.npz", "strata.png")
"""Files of a result in RUN/eval/SPLIT-MODE; only `segnl eval --strata` draws the last one."""


@dataclass(frozen=True)
class EvaluationRequest:
    """Split to evaluate on, and outputs to produce besides the scores."""

    split: str = "val"
    preset: Preset | None = None
    """The inference settings that the run was opened with; its name is that of the folder of the results."""
    ablation: Ablation | None = None
    """Applied to the network's attention during the evaluation."""
    with_strata: bool = False
    """Also count errors by place in the image and in the objects (metrics/strata.py)."""
    official: bool = False
    """Also score with cityscapesscripts."""
    masks: Path | None = None
    """Folder for ids, colour-coded masks, overlays and error maps; a killed evaluation resumes from its files."""
    submission: Path | None = None
    """Zip file for a benchmark's server; the split needs no labels then."""
    json_file: Path | None = None
    """File into which the caller writes the scores; an earlier one is removed before the network runs."""


def evaluate_run(
    run: Run, request: EvaluationRequest | None = None, *, group: ProcessGroup = SINGLE_PROCESS
) -> Evaluation:
    """Evaluates a run on a split, or returns its stored result if weights, data and settings are unchanged.

    Writes the result to RUN/eval/SPLIT-MODE, or to SPLIT-PRESET if the settings are a preset's. A result on files other
    than those of the run's own recipe goes to a folder SPLIT-MODE-on-DATA-DIGEST. An old result is removed before the
    network runs, so a killed evaluation leaves none.
    group: each process evaluates its own images; all return the same evaluation.

    Raises ConfigError for a request that this run or data set does not support, CheckpointError when the data set has
    other classes, DataError for a damaged image, MachineError when a folder cannot be written.
    """
    request = request or EvaluationRequest()
    with group.shared_errors():
        data = _open_data(run, request, group)
        usual_folder = _usual_folder(run, request)
        for written in (usual_folder, run.cache.folder, *([request.masks] if request.masks else [])):
            ensure_writable(written)
        key = _key(run, request, data)
    group.require_equal(key, "evaluate again, with the same checkpoint and data on every machine")
    identity = inode(run.folder)
    folder, stored = group.run_on_rank0(lambda: _look_up(run, data, key, usual_folder))
    if stored is None and group.is_rank0:
        _remove_results(folder)  # an earlier result must not pass for this one's if this evaluation is killed
        if request.json_file is not None:
            request.json_file.unlink(missing_ok=True)
        remove_leftovers(run.cache.folder, min_age_s=LEFTOVER_AGE_S, recursive=True)
    job = _Job(run, request, group, data, key, folder, stored)
    with run_lock(request.masks, hint="--masks folder") if request.masks and group.is_rank0 else nullcontext():
        record = job.evaluate_or_reuse()

    def finish() -> Evaluation:
        if inode(run.folder) != identity:
            raise ConfigError(f"{run.folder}: another training took its place during the evaluation; evaluate again")
        return job.finish(record)

    return group.run_on_rank0(finish)


def _open_data(run: Run, request: EvaluationRequest, group: ProcessGroup) -> SegmentationData:
    """Opens the split. Fails before hours of work if the request cannot be met."""
    if request.submission and group.world_size > 1:
        raise ConfigError("--submission: needs a single process; score without torchrun")
    data = run.open_data(request.split, needs_labels=request.submission is None)
    if request.official:
        data.official_files()  # fails now if one is missing
    return data


def _usual_folder(run: Run, request: EvaluationRequest) -> Path:
    """Returns RUN/eval/SPLIT-MODE[-ABLATION], the folder of results on the files of the run's own recipe."""
    ablation = [request.ablation.slug] if request.ablation else []
    name = "-".join([request.split, _preset(run, request) or run.recipe.eval.mode, *ablation])
    folder = inside(not_a_link(run.folder / "eval"), name)
    return folder if run.is_last_checkpoint else folder / run.path.stem


def _preset(run: Run, request: EvaluationRequest) -> str | None:
    """Returns the requested preset's name; None without one, or where overrides have changed its settings."""
    preset, settings = request.preset, run.recipe.eval.model_dump(mode="json")
    return preset.name if preset is not None and settings == settings | preset.settings else None


def _look_up(run: Run, data: SegmentationData, key: JSONDict, usual_folder: Path) -> tuple[Path, Record | None]:
    """Returns the result's folder in RUN/eval, and the stored result.

    The stored result is None if there is none or its masks have changed. A result on files other than those of the
    run's own recipe goes to a folder SPLIT-MODE-on-DATA-DIGEST.
    """
    content, folder = key["data"]["content"], usual_folder
    if _is_other_data(run, data, content, usual_folder):
        name = f"{usual_folder.name}-on-{data.root.resolve().name}-{content[:8]}"
        folder = inside(usual_folder.parent, name)
    _last_result(folder)  # raises for somebody's file before the network runs
    stored = run.cache.load(NAME, key, is_valid=functools.partial(_is_evaluation, data))
    digest = masks_digest(_cached_ids_folder(run, key), data.sample_ids)
    if stored is not None and (digest is None or stored.value["masks"] != digest):
        stored = None
    return folder, stored


def _is_evaluation(data: SegmentationData, record: Record) -> bool:
    """Returns whether a record holds the counts of every image of the split; scores are computed from them anew."""
    per_image, k, num_images = PerImage.from_arrays(record.arrays), data.table.num_classes, len(data)
    shapes, scores = {"boundary": (num_images, 3, k)}, dict.fromkeys(CityscapesScores._fields)
    if "pairs" in record.arrays:
        shapes["pairs"] = (num_images, len(data.ambiguous_pairs), 2)
    return (
        (per_image.num_classes, per_image.sample_ids) == (k, sorted(data.sample_ids))
        and all((record.arrays[name].shape, record.arrays[name].dtype) == (s, np.int64) for name, s in shapes.items())
        and all(record.arrays[name].min(initial=0) >= 0 for name in shapes)
        and isinstance(record.value["masks"], (str, type(None)))
        and ("strata" not in record.value or has_form(record.value["strata"], Strata(k).to_dict()))
        and all(has_form(record.value.get("official", scores)[name], None) for name in scores)
    )


def _key(run: Run, request: EvaluationRequest, data: SegmentationData) -> JSONDict:
    """Returns everything that predictions and counts depend on: all but eval.batch_size and eval.metrics."""
    recipe, checkpoint, ablation = run.recipe, run.checkpoint, request.ablation
    return {
        "version": VERSION,
        "checkpoint": {"step": checkpoint.step, "checksum": checkpoint.checksum},
        "data": {
            "name": recipe.data.name,
            "split": data.split,
            "has_labels": data.has_labels,
            "short_side_px": recipe.data.short_side_px,
        }
        | digests_of(data)
        | ({} if recipe.data.value_range is None else {"value_range": list(recipe.data.value_range)}),
        "eval": recipe.eval.model_dump(mode="json", exclude={"batch_size", "metrics"}),
        "channels_last": recipe.train.channels_last,
        "ablation": ablation.name if ablation else None,
    }


def _is_other_data(run: Run, data: SegmentationData, content: str, usual_folder: Path) -> bool:
    """Returns whether the files are other ones than those of the run's own recipe.

    They are the same, only moved or copied, if the last result in the usual folder has the same content.
    """
    own = {"root": Path(), **run.checkpoint.recipe["data"]}
    used = run.recipe.data.model_dump(mode="json")
    has_same_keys = all(own.get(key, used[key]) == used[key] for key in FILE_KEYS)
    with suppress(OSError, ValueError, RuntimeError, TypeError):  # the file's own root may lie on another machine
        if has_same_keys and Path(own["root"]).expanduser().resolve() == data.root.resolve():
            return False
    return _last_result(usual_folder)[1] != content


def _cached_ids_folder(run: Run, key: JSONDict) -> Path:
    """Returns RUN/cache/evaluation-DIGEST/ids, the folder of the stored result's masks."""
    return run.cache.path(NAME, key, suffix="") / "ids"


@dataclass(frozen=True)
class _Job:
    """One evaluation: the request and what follows from it.

    key: see `_key`. folder, stored: see `_look_up`; with a stored result, its masks are read and no network runs.
    """

    run: Run
    request: EvaluationRequest
    group: ProcessGroup
    data: SegmentationData
    key: JSONDict
    folder: Path
    stored: Record | None

    @property
    def cached_ids_folder(self) -> Path:
        """Folder of the masks that belong to the stored result, or will."""
        return _cached_ids_folder(self.run, self.key)

    def evaluate_or_reuse(self) -> Record:
        """Returns the stored result if it answers the request; otherwise that of a pass over the images."""
        data, group, request, stored = self.data, self.group, self.request, self.stored
        needs_strata = request.with_strata and (stored is None or "strata" not in stored.value)
        if stored is not None and not (request.masks or request.submission or needs_strata):
            return stored
        more_counts: dict[str, dict[str, Counts]] = {}
        index_of = {sample_id: i for i, sample_id in enumerate(data.sample_ids)}
        with Background(WRITERS, max_pending=2 * WRITERS) as writers:
            mask_folder = self._mask_folder(writers)
            submission = request.submission and Submission(request.submission, data, writers)

            def on_result(sample: Sample, labels: Tensor) -> None:
                mask = labels.numpy()
                if stored is None:
                    more_counts[sample.id] = _boundary_and_pairs(data, index_of[sample.id], mask, sample.label)
                    path = mask_path(self.cached_ids_folder, sample.id)
                    writers.submit(functools.partial(write_ids, path, mask, data.table))
                if mask_folder is not None:
                    mask_folder.write(sample, labels)
                if submission:
                    submission.add(sample, labels)

            predictor = predictor_of(self.run)
            predictor.kept_maps = kept_maps_of(self.run, predictor.model)
            with ablated(predictor.model, request.ablation) if request.ablation else nullcontext():
                self._log_start(mask_folder)
                counts = evaluate(
                    predictor,
                    data,
                    on_result=on_result,
                    cached_labels=functools.partial(self._cached_labels, mask_folder),
                    with_strata=request.with_strata,
                    group=group,
                )
            with group.shared_errors():
                writers.wait()
        if submission:
            submission.write()
        strata = {} if counts.strata is None else {"strata": counts.strata.to_dict()}
        if stored is not None:
            return replace(stored, value=stored.value | strata)
        for of_rank in group.all_gather_object(more_counts):
            more_counts |= of_rank
        arrays = counts.per_image.to_arrays()
        for name in more_counts[data.sample_ids[0]]:
            arrays[name] = np.stack([more_counts[sample_id][name] for sample_id in data.sample_ids])
        digest = group.run_on_rank0(lambda: masks_digest(self.cached_ids_folder, data.sample_ids))
        return Record(self.key, strata | {"masks": digest}, arrays)

    def _mask_folder(self, writers: Background) -> MaskFolder | None:
        """Opens the --masks folder, on rank 0 first: that removes what a killed evaluation left half written."""
        mask_folder = None
        for is_turn_of_rank0 in (True, False):
            with self.group.shared_errors():
                if self.request.masks is not None and self.group.is_rank0 == is_turn_of_rank0:
                    mask_folder = MaskFolder(self.request.masks, self.key, self.data, writers)
        return mask_folder

    def _cached_labels(self, mask_folder: MaskFolder | None, sample: Sample) -> Pixels | None:
        """Returns a stored prediction, train ids u8 `H W`; None if the network has to run."""
        # The first call is made in any case: it notices a damaged file of the --masks folder, which is written again.
        resumed = mask_folder.cached_labels(sample) if mask_folder is not None else None
        return resumed if self.stored is None else read_ids(self.cached_ids_folder, sample.id, self.data.table)

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

    def finish(self, record: Record) -> Evaluation:
        """Adds the official scores if requested, stores what is new, and writes the result to RUN/eval."""
        if self.request.official and "official" not in record.value:
            record = replace(record, value=record.value | {"official": self._official_scores()})
        is_new = self.stored is None or record.value != self.stored.value
        if is_new:
            # A file is read again only if it has changed.
            if any(self.key["data"][name] != digest for name, digest in digests_of(self.data).items()):
                raise DataError(f"{self.data.root}: images or labels changed during the evaluation; evaluate again")
            self.run.cache.store(NAME, record)
        per_image = PerImage.from_arrays(record.arrays)
        evaluation = Evaluation(
            folder=self.folder,
            masks=self.cached_ids_folder,
            cache=self.run.cache,
            key=self.key,
            metrics=self._metrics_json(record, per_image.total()),
            sample_ids=tuple(self.data.sample_ids),
            per_image=per_image,
            boundary=record.arrays["boundary"],
            pairs=record.arrays.get("pairs"),
            is_from_cache=self.stored is not None,
        )
        _write_results(evaluation)
        return evaluation

    def _official_scores(self) -> JSONDict:
        """Returns what cityscapesscripts makes of the cached masks."""
        predictions = [mask_path(self.cached_ids_folder, sample_id) for sample_id in self.data.sample_ids]
        pairs = zip(predictions, self.data.official_files(), strict=True)
        return score_frames([Frame(prediction, *files) for prediction, files in pairs])

    def _metrics_json(self, record: Record, confusion: Confusion) -> JSONDict:
        """Returns the content of metrics.json: the record's scores, what they are scores of, and what follows."""
        run, data, ablation = self.run, self.data, self.request.ablation
        scored = {
            "checkpoint": run.path.name,
            "step": run.checkpoint.step,
            "split": data.split,
            "data": {"name": data.cfg.name, "root": str(data.root.resolve()), "content": self.key["data"]["content"]},
            "eval": run.recipe.eval.model_dump(mode="json"),
            "preset": _preset(run, self.request),
            "ablation": ablation.name if ablation else None,
            "git": run.checkpoint.origin.get("git"),
            "cache": self.cached_ids_folder.parent.name,
        }
        on_request = {name: record.value[name] for name in ("strata", "official") if name in record.value}
        boundaries = boundary_iou(record.arrays["boundary"].sum(axis=0))
        derived: JSONDict = {"boundary_iou": number_or_none(mean_of_defined(boundaries))}
        if "pairs" in record.arrays:
            accuracy = pair_accuracy(record.arrays["pairs"].sum(axis=0))
            pairs = dict(zip(data.ambiguous_pairs, map(number_or_none, accuracy), strict=True))
            derived["ambiguous"] = {"mean": number_or_none(mean_of_defined(accuracy)), "pairs": pairs}
        recipe_metrics = metric_values(run.recipe.eval.metrics, confusion)
        if recipe_metrics:
            derived["metrics"] = {name: number_or_none(value) for name, value in recipe_metrics.items()}
        metrics = metrics_dict(
            confusion, data.table.names, num_images=len(data), counts_absent_classes=data.counts_absent_classes
        )
        return metrics | scored | on_request | derived


def _boundary_and_pairs(data: SegmentationData, i: int, mask: Pixels, label: Pixels) -> dict[str, Counts]:
    counts = {"boundary": boundary_counts(mask, label, boundary_width(mask.shape), data.table.num_classes)}
    if data.ambiguous_pairs and data.has_labels:
        counts["pairs"] = pair_counts(mask, label, data.ambiguous_mask(i), len(data.ambiguous_pairs))
    return counts


def _write_results(evaluation: Evaluation) -> None:
    """Writes the result to RUN/eval/SPLIT-MODE; metrics.json comes last, so it implies the other files."""
    file = evaluation.folder / "metrics.json"
    if _last_result(evaluation.folder)[0] != evaluation.metrics["cache"]:
        _remove_results(evaluation.folder)
    evaluation.per_image.save(evaluation.folder / "per_image.npz")
    write_atomic(file, json.dumps(evaluation.metrics, indent=1).encode())


def _last_result(folder: Path) -> tuple[str | None, str | None]:
    """Returns what metrics.json in the folder of a result names as its cache and as the content of its data.

    Raises ConfigError for a file of somebody else, which no result may replace.
    """
    file = folder / "metrics.json"
    if not file.exists():
        return None, None
    try:
        metrics = read_json(file)
    except (OSError, ValueError):
        metrics = None
    if not isinstance(metrics, dict) or "per_class" not in metrics:
        raise ConfigError(f"{file}: exists and was not written by segnl eval; move it aside")
    data = metrics.get("data")
    return metrics.get("cache"), data.get("content") if isinstance(data, dict) else None


def _remove_results(folder: Path) -> None:
    for name in RESULT_FILES:
        (folder / name).unlink(missing_ok=True)
