"""Soft Dice loss: one minus the overlap of probabilities and labels, a class at a time."""

from typing import Literal

import torch
from torch import Tensor

from segnl.core import IGNORE
from segnl.losses.base import Loss, LossConfig


class DiceConfig(LossConfig):
    """Settings of the loss."""

    name: str = "dice"
    divide_by: Literal["valid"] = "valid"


class DiceLoss(Loss):
    """Mean over classes of 1 - 2 sum(p g) / (sum(p^2) + sum(g^2)): p the softmax of a class, g 1 at its pixels, else 0.

    Source: the Dice coefficient of V-Net, Milletari et al. 2016, arXiv:1606.04797, with squares in the denominator;
    Sudre et al. 2017 have none, and weights by the inverse squared area. Differs from the paper: it has one class and
    a background, here each class is taken against all others, and the mean is by `class_weight`.
    The sums run over all valid pixels of a micro-batch on one process, and the step's loss is the mean over
    micro-batches and processes. A class that has no pixel there is left out: its term is 1 whatever the logits are.
    """

    Config = DiceConfig
    cfg: DiceConfig

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Returns the loss of logits `b k h w` of any size for label `b H W`."""
        valid = (label != IGNORE)[:, None]
        probability = self.upsampled(logits, label).softmax(1) * valid  # b k H W
        classes = torch.arange(logits.shape[1], device=label.device)
        is_label = label[:, None] == classes[:, None, None]  # b k H W
        pixels = (0, 2, 3)
        count = is_label.sum(pixels).to(probability)  # k
        overlap = (probability * is_label).sum(pixels)
        # At least 1 for every class that is present.
        denominator = (probability.square().sum(pixels) + count).clamp(min=1)
        return self.mean_over_classes(1 - 2 * overlap / denominator, count > 0)


LOSS = DiceLoss
