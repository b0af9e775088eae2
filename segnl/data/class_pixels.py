"""Pixels of each class over a data set's labels."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from segnl.core import IGNORE
from segnl.core.arrays import Counts
from segnl.data.base import SegmentationData
from segnl.data.reading import read_label


def class_pixels(data: SegmentationData) -> Counts:
    """Pixels of each class over all labels of `data`, int64 `k`. Raises DataError for a label that cannot be read."""

    def count(i: int) -> Counts:
        path = data.label_path(i)
        train = data.table.to_train(read_label(path), str(path))
        return np.bincount(train.ravel(), minlength=IGNORE + 1)

    with ThreadPoolExecutor(max(1, data.cfg.workers)) as pool:
        total = sum(pool.map(count, range(len(data))), np.zeros(IGNORE + 1, np.int64))
    return total[: data.table.num_classes]
