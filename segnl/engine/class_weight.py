"""Class weights for the loss, from how many pixels each class has in the training labels."""

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segnl.datasets.base import SegmentationData
from segnl.datasets.reading import read_label
from segnl.labels.table import IGNORE

Balance = Literal["enet", "enet_sqrt", "median_frequency"]


def class_weight_of(balance: Balance | None, data: SegmentationData) -> Tensor | None:
    """float32 `k` for the loss, or None where nothing is to be balanced; reads every training label once.

    enet: 1 / ln(1.02 + p), p the class's share of labelled pixels (Paszke et al. 2016, arXiv:1606.02147).
    enet_sqrt: its square root; rare classes keep their part, at a third of the contrast, and precision suffers less.
    median_frequency: the median share over the class's share (Eigen and Fergus 2015, arXiv:1411.4734, with shares over
    the whole split). A class without a pixel weighs 1 there: nothing is known of it, and it has no term in the loss.
    """
    if balance is None:
        return None
    pixels = class_pixels(data)
    share = pixels / max(1, int(pixels.sum()))
    if balance in ("enet", "enet_sqrt"):
        weight = (1 / np.log(1.02 + share)) ** (0.5 if balance == "enet_sqrt" else 1.0)
    else:
        present = share > 0
        middle = float(np.median(share[present])) if present.any() else 1.0
        weight = np.divide(middle, share, out=np.ones_like(share), where=present)
    return torch.from_numpy(weight.astype(np.float32))


def class_pixels(data: SegmentationData) -> npt.NDArray[np.int64]:
    """Pixels of each class over all labels of `data`, int64 `k`. Raises DataError for a label that cannot be read."""

    def count(i: int) -> npt.NDArray[np.int64]:
        path = data.label_path(i)
        train = data.table.to_train(read_label(path), str(path))
        return np.bincount(train.ravel(), minlength=IGNORE + 1)

    with ThreadPoolExecutor(max(1, data.cfg.workers)) as pool:
        total = sum(pool.map(count, range(len(data))), np.zeros(IGNORE + 1, np.int64))
    return total[: data.table.num_classes]
