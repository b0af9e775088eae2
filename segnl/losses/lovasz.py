"""Lovasz-softmax: the convex extension of 1 - IoU, a class at a time."""

from typing import Literal

import torch
from torch import Tensor

from segnl.core import IGNORE
from segnl.losses.base import Loss, LossConfig


class LovaszConfig(LossConfig):
    """Settings of the loss."""

    name: str = "lovasz"
    divide_by: Literal["valid"] = "valid"


class LovaszLoss(Loss):
    """Mean over the classes present of the Lovasz extension of 1 - IoU, at the errors |g - p| of the class's softmax p.

    Source: Berman et al. 2018, arXiv:1705.08790, in the form for batches (not for each image) and the classes that are
    present, which the authors' code has by default. Differs from the paper: the mean is by `class_weight`.
    IoU and the classes present are those of all valid pixels of a micro-batch on one process, and the step's loss is
    the mean over micro-batches and processes.
    """

    Config = LovaszConfig
    cfg: LovaszConfig

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Returns the loss of logits `b k h w` of any size for label `b H W`."""
        valid = label != IGNORE
        probability = self.upsampled(logits, label).softmax(1).movedim(1, -1)[valid]  # n k
        label = label[valid].long()  # n
        # One class at a time, and only those present: sorting all would need `k n` numbers twice.
        losses = [probability.new_zeros(())] * logits.shape[1]
        for index in label.unique().tolist():
            is_label = label == index
            errors, order = (is_label.to(probability) - probability[:, index]).abs().sort(descending=True)
            losses[index] = (errors * _slopes(is_label[order]).to(errors)).sum()
        is_present = label.bincount(minlength=logits.shape[1]) > 0
        # The empty sum makes the loss of no pixels a function of the logits.
        return self.mean_over_classes(torch.stack(losses), is_present) + probability[:0].sum()


def _slopes(is_label: Tensor) -> Tensor:
    """Returns by how much 1 - IoU grows with each pixel that is wrong, the largest error first; bool and float64 `n`.

    float64: each is a difference of numbers near one another.
    """
    num_wrong = is_label.cumsum(0)
    num_pixels = num_wrong[-1]
    intersection = num_pixels - num_wrong
    union = num_pixels + (~is_label).cumsum(0)
    loss = 1 - intersection.double() / union
    return loss.diff(prepend=loss.new_zeros(1))


LOSS = LovaszLoss
