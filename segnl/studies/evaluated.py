"""Counts of runs that exist already, through the one evaluation path (evaluation/evaluate_run.py)."""

from collections.abc import Sequence
from pathlib import Path

from segnl.data.base import SegmentationData
from segnl.data.groups import image_groups
from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run
from segnl.evaluation.evaluation import Evaluation
from segnl.metrics.scored_counts import ScoredCounts, mask_digest
from segnl.runs.recipe import flatten
from segnl.runs.run import open_run
from segnl.studies.conditions import Training
from segnl.studies.control import logged_hashes


def evaluated(
    path: Path, split: str, trust_modules: Sequence[str]
) -> tuple[ScoredCounts, Training, dict[str, str] | None]:
    """Evaluates a run on a split, or takes its stored result. path: a run's folder or a checkpoint's file.

    Returns its counts, how it was trained, and the group of each image by sample id; None where each stands alone.
    """
    run = open_run(path, trust_modules=trust_modules)
    evaluation = evaluate_run(run, EvaluationRequest(split))
    data = run.open_data(split)
    counts = ScoredCounts(
        source=str(run.path),
        sample_ids=evaluation.sample_ids,
        class_names=tuple(evaluation.metrics["per_class"]),
        intersection=evaluation.intersection,
        target=evaluation.target,
        union=evaluation.union,
        label_digests=label_digests(evaluation, data),
        prediction_digests=(),
    )
    is_known = "imported" not in run.checkpoint.origin
    recipe = run.recipe.to_dict()
    training = Training(
        recipe,
        flatten(recipe),
        run.recipe.train.seed if is_known else None,
        is_known,
        logged_hashes(run.folder).batches if is_known else {},
    )
    groups = image_groups(data)
    return counts, training, None if groups is None else dict(zip(data.sample_ids, groups, strict=True))


def label_digests(evaluation: Evaluation, data: SegmentationData) -> tuple[str, ...]:
    """Returns a digest of each label of the split, as `segnl score` keeps them; stored in the run's cache."""

    def digests() -> tuple[str, ...]:
        return tuple(mask_digest(data.read_train_ids(i)) for i in range(len(data)))

    key = {"version": 1, "data": evaluation.key["data"]}
    return evaluation.cache.value(
        "labels", key, tuple[str, ...], digests, is_valid=lambda value: len(value) == len(data)
    )
