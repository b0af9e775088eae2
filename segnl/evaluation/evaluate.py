"""Evaluation of a network on a data set: every image once, at its label's own size, in one confusion matrix."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from segnl.core.arrays import Pixels
from segnl.core.background import Background
from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup
from segnl.core.errors import DataError
from segnl.core.progress import Progress
from segnl.data.base import SegmentationData
from segnl.data.loader import eval_samples
from segnl.data.sample import Sample
from segnl.evaluation.predictor import Predictor
from segnl.metrics.accumulator import Accumulator
from segnl.metrics.confusion import Confusion
from segnl.runs.recipe import Recipe

OnResult = Callable[[Sample, Tensor], None]
Known = Callable[[Sample], Pixels | None]


def evaluate(
    predictor: Predictor,
    data: SegmentationData,
    *,
    recipe: Recipe,
    on_result: OnResult | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    accumulator: Accumulator | None = None,
    known: Known | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Confusion:
    """Returns the confusion matrix over all of `data`. No image is skipped: a damaged one raises DataError.

    Worker processes decode, this thread runs the network and another thread counts, all at the same time.
    group: each process evaluates its own images (rank, rank + world, ...), and all get the sum of their counts.
    should_stop: called after each image; when true, the counts so far are returned, which mean nothing.
    on_result: called, by that other thread, with each sample and its predicted train ids u8 `H W` on the CPU, in order.
    accumulator: where to count, for those who want more than the matrix. known: a sample's train ids u8 `H W` if an
    earlier start wrote them; the network does not run then.
    """
    if len(data) == 0:
        raise DataError(f"{recipe.data.root}: no images to score")
    counted = Accumulator(data.table.num_classes) if accumulator is None else accumulator
    indices = range(group.rank, len(data), group.world_size)
    samples = eval_samples(data, workers=recipe.data.workers, timeout_s=recipe.data.worker_timeout_s, indices=indices)

    def count(sample: Sample, labels: Tensor) -> None:
        ids = labels.cpu()  # H W; waits for the device
        counted.add(sample.id, ids, sample.label)
        if on_result is not None:
            on_result(sample, ids)

    def evaluate_all() -> None:
        with (
            Background(1, waiting=2) as counting,
            Progress("evaluate", len(indices), unit="image", is_shown=group.is_rank0) as progress,
        ):
            for _, sample in samples:
                ids = known(sample) if known is not None else None
                labels = predictor.labels(sample.image) if ids is None else torch.from_numpy(ids)
                counting.do(partial(count, sample, labels))
                progress.advance()
                if should_stop():
                    break

    group.run_on_all(evaluate_all)
    for rank, others in enumerate(group.all_gather_object(counted)):
        if rank != group.rank:
            counted.merge(others)
    return counted.confusion
