"""Evaluation of a network on a data set: counts every image once, at its label's size, in one confusion matrix."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from segnl.core.arrays import Pixels
from segnl.core.background import Background
from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup
from segnl.core.errors import DataError, NonFiniteError
from segnl.core.progress import Progress
from segnl.data.base import SegmentationData
from segnl.data.loader import eval_samples
from segnl.data.sample import Sample
from segnl.evaluation.inference import ClassScores
from segnl.evaluation.predictor import Predictor
from segnl.metrics.accumulator import Accumulator

OnResult = Callable[[Sample, Tensor], None]
OnScores = Callable[[Sample, ClassScores], None]
CachedLabels = Callable[[Sample], Pixels | None]


def evaluate(
    predictor: Predictor,
    data: SegmentationData,
    *,
    on_result: OnResult | None = None,
    on_scores: OnScores | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    cached_labels: CachedLabels | None = None,
    with_strata: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Accumulator:
    """Returns the counts over all of `data`: the confusion matrix, each image's, and the strata if asked for.

    Worker processes decode, this thread runs the network, and another thread counts, all at the same time.
    group: each process evaluates its own images (rank, rank + world size, ...); all return the sum of their counts.
    on_result: called in the counting thread, in order, with each sample and its prediction, train ids u8 `H W`, CPU.
    on_scores: called in this thread with each sample and its class scores, before they are reduced to a prediction.
    should_stop: called after each image; if true, the evaluation ends early and its result is not to be used.
    cached_labels: returns a sample's prediction, train ids u8 `H W`, or None if the network has to run.

    Raises DataError for a damaged image (none is skipped) and for an empty data set, NonFiniteError naming the image
    for which the network's outputs are NaN or infinite.
    """
    if len(data) == 0:
        raise DataError(f"{data.root}: no images to score")
    total = Accumulator(data.table.num_classes, with_strata=with_strata)
    indices = range(group.rank, len(data), group.world_size)
    samples = eval_samples(data, workers=data.cfg.workers, timeout_s=data.cfg.worker_timeout_s, indices=indices)

    def count(sample: Sample, labels: Tensor) -> None:
        ids = labels.cpu()  # H W; waits for the device
        total.add(sample.id, ids, sample.label)
        if on_result is not None:
            on_result(sample, ids)

    with (
        group.shared_errors(),
        Background(1, max_pending=2) as counting,
        Progress("evaluate", len(indices), unit="image", is_shown=group.is_rank0) as progress,
    ):
        for _, sample in samples:
            cached = cached_labels(sample) if cached_labels is not None else None
            labels = torch.from_numpy(cached) if cached is not None else _labels(predictor, sample, on_scores)
            counting.submit(partial(count, sample, labels))
            progress.advance()
            if should_stop():
                break
    for rank, other in enumerate(group.all_gather_object(total)):
        if rank != group.rank:
            total.merge(other)
    return total


def _labels(predictor: Predictor, sample: Sample, on_scores: OnScores | None) -> Tensor:
    try:
        if on_scores is None:
            return predictor.labels(sample.image)
        scores = predictor.scores(sample.image)
        on_scores(sample, scores)
        return scores.argmax()[0]
    except NonFiniteError as err:
        raise NonFiniteError(f"{sample.id}: {err}") from err
