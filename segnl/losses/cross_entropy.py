"""Cross-entropy of the upsampled logits, computed band by band of rows (ops/pixel_loss.py)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from segnl.losses.base import LossConfig, PixelLoss, StepNormalizer
from segnl.ops.pixel_loss import pixel_cross_entropy


class CrossEntropyConfig(LossConfig):
    """Settings of the loss."""

    name: str = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class CrossEntropyLoss(PixelLoss):
    """Mean cross-entropy over pixels; exactly 0 with zero gradients where all are ignored."""

    Config = CrossEntropyConfig
    cfg: CrossEntropyConfig

    def of_step(self, logits: Tensor, label: Tensor, step: StepNormalizer) -> Tensor:
        """Returns the micro-batch's summand of the mean over all pixels of the step."""
        return pixel_cross_entropy(
            logits,
            label,
            align_corners=self.align_corners,
            class_weight=self.class_weight,
            label_smoothing=self.cfg.label_smoothing,
            normalize_by=step.divisor,
        )


LOSS = CrossEntropyLoss
