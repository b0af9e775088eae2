"""Class weights for the loss, from how many pixels each class has in the training labels."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segnl.core.arrays import Counts

Balance = Literal["enet", "enet_sqrt", "median_frequency"]


def class_weights(balance: Balance, pixels: Counts) -> Tensor:
    """Returns float32 `k`, a weight for each class. pixels: int64 `k`, each class's pixels in the training labels.

    enet: 1 / ln(1.02 + p), p the class's share of labelled pixels (Paszke et al. 2016, arXiv:1606.02147).
    enet_sqrt: its square root; rare classes keep their part, at a third of the contrast, and precision suffers less.
    median_frequency: the median share over the class's share (Eigen and Fergus 2015, arXiv:1411.4734, with shares over
    the whole split). A class without a pixel weighs 1 there: nothing is known of it, and it has no term in the loss.
    """
    share = pixels / max(1, int(pixels.sum()))
    if balance in ("enet", "enet_sqrt"):
        weight = (1 / np.log(1.02 + share)) ** (0.5 if balance == "enet_sqrt" else 1.0)
    else:
        present = share > 0
        middle = float(np.median(share[present])) if present.any() else 1.0
        weight = np.divide(middle, share, out=np.ones_like(share), where=present)
    return torch.from_numpy(weight.astype(np.float32))
