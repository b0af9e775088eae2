"""Focal loss: cross-entropy in which a pixel counts less, the better it is classified already."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from segnl.core import IGNORE
from segnl.losses.base import LossConfig, PixelLoss, StepNormalizer


class FocalConfig(LossConfig):
    """Settings of the loss."""

    name: str = "focal"
    gamma: Annotated[float, Field(ge=0, le=100)] = 2.0
    """Exponent of (1 - p); 0 is cross-entropy."""


class FocalLoss(PixelLoss):
    """Mean of -alpha (1 - p)^gamma log(p) over pixels, p the probability of the pixel's label.

    Source: Lin et al. 2017, arXiv:1708.02002. Differs from the paper: p is a softmax over all classes, not a sigmoid
    for each class; alpha is `class_weight`, a number for each class; the sum is divided as a cross-entropy is, by the
    class weights of the step's valid pixels on all processes (or by all pixels), not by the number of objects.
    """

    Config = FocalConfig
    cfg: FocalConfig

    def of_step(self, logits: Tensor, label: Tensor, step: StepNormalizer) -> Tensor:
        """Returns the micro-batch's summand of the mean over all pixels of the step."""
        valid = label != IGNORE
        label = label.long() * valid
        log_p = self.upsampled(logits, label).log_softmax(1).gather(1, label[:, None])[:, 0]  # b H W
        # log_p rounds up to 0 for a sure pixel, where the slope of 0 ** gamma is infinite for gamma < 1.
        focus = (-log_p.expm1()).clamp(min=1e-12) ** self.cfg.gamma
        losses = -focus * log_p * valid
        if self.class_weight is not None:
            losses = losses * self.class_weight.to(losses)[label]
        return (losses.sum(dtype=step.divisor.dtype) / step.divisor.clamp(min=1e-30)).to(losses.dtype)


LOSS = FocalLoss
