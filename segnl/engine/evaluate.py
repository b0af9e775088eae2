"""Scores a network on a data set: every image once, at its label's own size, by one confusion matrix."""

from collections.abc import Callable

import torch
from torch import Tensor

from segnl.core.distributed import ALONE, Ranks
from segnl.core.errors import DataError, SegnlError
from segnl.datasets.base import SegmentationData
from segnl.datasets.loader import eval_samples
from segnl.datasets.sample import Sample
from segnl.engine.predictor import Predictor
from segnl.engine.progress import Progress
from segnl.engine.recipe import Recipe
from segnl.metrics.confusion import Confusion

OnResult = Callable[[Sample, Tensor], None]


def evaluate(
    predictor: Predictor,
    data: SegmentationData,
    *,
    recipe: Recipe,
    on_result: OnResult | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
) -> Confusion:
    """The confusion matrix over all of `data`. No image is skipped: a damaged one raises DataError.

    ranks: each goes through its own images (rank, rank + world, ...), and all get the sum of their counts.
    should_stop: asked after each image; when true, what is counted so far is returned and means nothing.
    on_result: called with each sample and its predicted train ids u8 `H W`, in order.
    """
    if len(data) == 0:
        raise DataError(f"{recipe.data.root}: no images to score")
    confusion = Confusion(data.table.num_classes)
    samples = eval_samples(
        data,
        workers=recipe.data.workers,
        timeout_s=recipe.data.worker_timeout_s,
        rank=ranks.rank,
        world=ranks.world,
    )
    fault = None
    with Progress("evaluate", -(-len(data) // ranks.world), unit="image", is_shown=ranks.is_main) as progress:
        try:
            for _, sample in samples:
                predicted = predictor.labels(sample.image)  # H W
                confusion.update(predicted, sample.label)
                if on_result is not None:
                    on_result(sample, predicted)
                progress.advance()
                if should_stop():
                    break
        except SegnlError as err:
            fault = err
    ranks.raise_together(fault)
    return Confusion(confusion.num_classes, ranks.total(torch.from_numpy(confusion.matrix)).numpy())
