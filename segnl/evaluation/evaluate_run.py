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
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from segnl.core.arrays import Counts, Pixels
from segnl.core.background import Background
from segnl.core.config import JSONDict
from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup
from segnl.core.errors import ConfigError
from segnl.core.files import ensure_writable, inside, not_a_link, run_lock, sha256_of, write_atomic
from segnl.core.log import log
from segnl.core.result_cache import Record
from segnl.data.base import SegmentationData
from segnl.data.digest import content_digest
from segnl.data.sample import Sample
from segnl.evaluation.evaluate import evaluate
from segnl.evaluation.evaluation import Evaluation
from segnl.evaluation.mask_folder import MaskFolder
from segnl.evaluation.masks import WRITERS, mask_path, read_ids, write_ids
from segnl.evaluation.predictor import predictor_of
from segnl.evaluation.presets import is_preset
from segnl.evaluation.submission import Submission
from segnl.metrics.accumulator import PerImage
from segnl.metrics.cityscapes_official import Frame, instances_of, score_frames
from segnl.metrics.confusion import mean_of_defined, metrics_dict, number_or_none
from segnl.metrics.scalars.find import build_metrics, metric_values
from segnl.metrics.strata import boundary_counts, boundary_width, pair_counts
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


def evaluate_run(
    run: Run, request: EvaluationRequest | None = None, *, group: ProcessGroup = SINGLE_PROCESS
) -> Evaluation:
    """Evaluates a run on a split, or returns its stored result if weights, data and settings are unchanged.

    Writes the result to RUN/eval/SPLIT-MODE, or to SPLIT-PRESET if the settings are a preset's; that of other files
    than those of the run's recipe to a folder of their own. An old result is removed before the network runs, so a
    killed evaluation leaves none.
    group: each process evaluates its own images; all return the same evaluation.

    Raises ConfigError for a request that this run or data set does not support, CheckpointError when the data set has
    other classes, DataError for a damaged image, MachineError when a folder cannot be written.
    """
    request = request or EvaluationRequest()
    with group.shared_errors():
        job = _open_job(run, request, group)
    job.key, job.stored = group.run_on_rank0(job.look_up)
    with run_lock(request.masks, hint="--masks folder") if request.masks and group.is_rank0 else nullcontext():
        record = job.record()
    return group.run_on_rank0(lambda: job.finish(record))


def _open_job(run: Run, request: EvaluationRequest, group: ProcessGroup) -> "_Job":
    """Opens the data and the folders. Fails before hours of work if the request cannot be met."""
    if request.submission and group.world_size > 1:
        raise ConfigError("--submission: needs a single process; score without torchrun")
    build_metrics(run.recipe.eval.metrics)
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
    preset = request.preset if request.preset and is_preset(request.preset, run.recipe.eval) else None
    ablation = [request.ablation.slug] if request.ablation else []
    folder = inside(
        not_a_link(run.folder / "eval"), "-".join([request.split, preset or run.recipe.eval.mode, *ablation])
    )
    folder = folder if run.is_last_checkpoint else folder / run.path.stem
    for written in (folder, run.cache.folder, *([request.masks] if request.masks else [])):
        ensure_writable(written)
    return _Job(run, request, group, data, preset, folder)


@dataclass
class _Job:
    """One evaluation: the request and what follows from it.

    preset: None as well where overrides have changed its settings. folder: RUN/eval/SPLIT-MODE.
    key: everything that predictions and counts depend on. stored: a valid result of an earlier evaluation, whose masks
    are read instead of running the network.
    """

    run: Run
    request: EvaluationRequest
    group: ProcessGroup
    data: SegmentationData
    preset: str | None
    folder: Path
    key: JSONDict = field(default_factory=dict)
    stored: Record | None = None

    @property
    def masks(self) -> Path:
        """Folder of the cached masks."""
        return self.run.cache.path(NAME, self.key).with_suffix("") / "ids"

    def look_up(self) -> tuple[JSONDict, Record | None]:
        """Returns key and stored result, which is None if there is none or its masks have changed.

        Without a stored result, an earlier one is removed from RUN/eval, so that it is not mistaken for the new one.
        """
        self.key = self._describe()
        if self._is_other_data():
            name = f"{self.folder.name}-on-{self.data.root.resolve().name}-{self.content[:8]}"
            self.folder = inside(self.folder.parent, name)
        stored = self.run.cache.load(NAME, self.key)
        if stored is None or stored.value["masks"] != self._masks_digest():
            _remove_results(self.folder)
            stored = None
        return self.key, stored

    def _describe(self) -> JSONDict:
        """Returns the key, without eval.batch_size and eval.metrics, which change neither predictions nor counts."""
        recipe, checkpoint, ablation = self.run.recipe, self.run.checkpoint, self.request.ablation
        return {
            "version": VERSION,
            "checkpoint": {"step": checkpoint.step, "checksum": checkpoint.checksum},
            "data": {
                "name": recipe.data.name,
                "split": self.data.split,
                "has_labels": self.data.has_labels,
                "short_side_px": recipe.data.short_side_px,
                "content": content_digest(self.data),
            }
            | ({} if recipe.data.value_range is None else {"value_range": list(recipe.data.value_range)}),
            "eval": recipe.eval.model_dump(mode="json", exclude={"batch_size", "metrics"}),
            "channels_last": recipe.train.channels_last,
            "ablation": ablation.name if ablation else None,
        }

    @property
    def content(self) -> str:
        """The digest of the split's files and classes."""
        return str(self.key["data"]["content"])

    def _is_other_data(self) -> bool:
        """Whether the files are others than those of the run's own recipe, whose result keeps its folder then."""
        own = {"root": ".", **self.run.checkpoint.recipe["data"]}
        used = self.run.recipe.data.model_dump(mode="json")
        is_same = all(own.get(key, used[key]) == used[key] for key in FILE_KEYS)
        if is_same and Path(own["root"]).expanduser().resolve() == self.data.root.resolve():
            return False
        return _last_result(self.folder).get("data", {}).get("content") != self.content

    def _masks_digest(self) -> str | None:
        """Returns the SHA-256 of the mask files; None if one is missing.

        It detects masks damaged by a power cut, so the masks need not be synced to disk one by one.
        """
        paths = [mask_path(self.masks, sample_id) for sample_id in self.data.sample_ids]
        if not all(path.is_file() for path in paths):
            return None
        return hashlib.sha256("\n".join(map(sha256_of, paths)).encode()).hexdigest()

    def record(self) -> Record:
        """Returns the result: the stored one where it answers the request, else that of a pass over the images."""
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
                    path = mask_path(self.masks, sample.id)
                    writers.submit(functools.partial(write_ids, path, mask, data.table))
                if mask_folder is not None:
                    mask_folder.write(sample, labels)
                if submission:
                    submission.add(sample, labels)

            predictor = predictor_of(self.run)
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
            return stored if stored.value == stored.value | strata else replace(stored, value=stored.value | strata)
        for of_rank in group.all_gather_object(more_counts):
            more_counts |= of_rank
        arrays = counts.per_image.to_arrays()
        for name in more_counts[data.sample_ids[0]]:
            arrays[name] = np.stack([more_counts[sample_id][name] for sample_id in data.sample_ids])
        metrics = metrics_dict(
            counts.confusion,
            data.table.names,
            num_images=len(data),
            counts_absent_classes=data.counts_absent_classes,
        )
        return Record(self.key, strata | {"metrics": metrics, "masks": group.run_on_rank0(self._masks_digest)}, arrays)

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

    def finish(self, record: Record) -> Evaluation:
        """Adds the official scores if requested, stores a new result, and writes it to RUN/eval."""
        run, data, ablation = self.run, self.data, self.request.ablation
        if self.request.official and "official" not in record.value:
            labels = [data.label_path(i) for i in range(len(data))]
            predictions = [mask_path(self.masks, sample_id) for sample_id in data.sample_ids]
            frames = [Frame(*files, instances_of(files[1])) for files in zip(predictions, labels, strict=True)]
            record = replace(record, value=record.value | {"official": score_frames(frames)})
        if record is not self.stored:
            run.cache.store(NAME, record)
        evaluation = Evaluation(
            folder=self.folder,
            masks=self.masks,
            cache=run.cache,
            key=self.key,
            metrics=record.value["metrics"]
            | {
                "checkpoint": run.path.name,
                "step": run.checkpoint.step,
                "split": data.split,
                "data": {"name": data.cfg.name, "root": str(data.root.resolve()), "content": self.content},
                "eval": run.recipe.eval.model_dump(mode="json"),
                "preset": self.preset,
                "ablation": ablation.name if ablation else None,
                "git": run.checkpoint.origin["git"],
                "cache": self.masks.parent.name,
            }
            | {name: record.value[name] for name in ("strata", "official") if name in record.value},
            sample_ids=tuple(data.sample_ids),
            per_image=PerImage.from_arrays(record.arrays),
            boundary=record.arrays["boundary"],
            pairs=record.arrays.get("pairs"),
            is_from_cache=self.stored is not None,
        )
        evaluation.metrics["boundary_iou"] = number_or_none(mean_of_defined(evaluation.boundary_iou()))
        accuracy = evaluation.pair_accuracy()
        if accuracy is not None:
            pairs = dict(zip(data.ambiguous_pairs, map(number_or_none, accuracy), strict=True))
            evaluation.metrics["ambiguous"] = {"mean": number_or_none(mean_of_defined(accuracy)), "pairs": pairs}
        metrics = metric_values(build_metrics(run.recipe.eval.metrics), evaluation.confusion)
        if metrics:
            evaluation.metrics["metrics"] = {name: number_or_none(value) for name, value in metrics.items()}
        _write_results(evaluation)
        return evaluation


def _boundary_and_pairs(data: SegmentationData, i: int, mask: Pixels, label: Pixels) -> dict[str, Counts]:
    counts = {"boundary": boundary_counts(mask, label, boundary_width(mask.shape), data.table.num_classes)}
    if data.ambiguous_pairs and data.has_labels:
        counts["pairs"] = pair_counts(mask, label, data.ambiguous_mask(i), len(data.ambiguous_pairs))
    return counts


def _write_results(evaluation: Evaluation) -> None:
    """Writes the result to RUN/eval/SPLIT-MODE; metrics.json comes last, so it implies the other files."""
    file = evaluation.folder / "metrics.json"
    if _last_result(evaluation.folder).get("cache") != evaluation.metrics["cache"]:
        _remove_results(evaluation.folder)
    evaluation.per_image.save(evaluation.folder / "per_image.npz")
    write_atomic(file, json.dumps(evaluation.metrics, indent=1).encode())


def _last_result(folder: Path) -> JSONDict:
    """Returns what metrics.json in the folder of a result holds; empty where there is none."""
    try:
        metrics = json.loads((folder / "metrics.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return metrics if isinstance(metrics, dict) else {}


def _remove_results(folder: Path) -> None:
    for name in RESULT_FILES:
        (folder / name).unlink(missing_ok=True)
