"""Online hard example mining (Shrivastava et al. 2016, arXiv:1604.03540): CCNet's form, or a fraction of the pixels."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from segnl.core import IGNORE
from segnl.core.config import Count
from segnl.losses.base import LossConfig, PixelLoss, StepNormalizer
from segnl.ops.pixel_loss import hardest_label, ohem_label, per_pixel_loss, pixel_cross_entropy, pixel_weight_sum


class OHEMConfig(LossConfig):
    """Settings of the loss."""

    name: str = "ohem"
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """A pixel is hard while the probability of its labelled class is below this."""
    min_kept: Count = 100_000
    """At least this many of the step's hardest pixels count; processes and micro-batches have equal shares of it."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """In place of the two above: this fraction of the labelled pixels, the hardest, counts."""


class OHEMLoss(PixelLoss):
    """Cross-entropy of hard pixels only, for the main logits; auxiliary logits get the cross-entropy of all pixels.

    Each micro-batch of each process mines its own pixels. The mean is over the pixels kept on all processes, and every
    micro-batch weighs the same.
    """

    Config = OHEMConfig
    cfg: OHEMConfig

    def of_step(self, logits: Tensor, label: Tensor, step: StepNormalizer) -> Tensor:
        """Returns the micro-batch's summand of the step's loss."""
        hard = self.hard_pixels(logits, label, step)
        divisor = step.divisor
        if self.cfg.divide_by == "valid":
            kept = pixel_weight_sum(hard, class_weight=self.class_weight)
            divisor = step.micro_batches * step.group.all_reduce_sum(kept)
        return self._cross_entropy(logits, hard, divisor)

    def of_auxiliary(self, logits: Tensor, label: Tensor, step: StepNormalizer) -> Tensor:
        """Returns the plain cross-entropy."""
        return self._cross_entropy(logits, label, step.divisor)

    def hard_pixels(self, logits: Tensor, label: Tensor, step: StepNormalizer) -> Tensor:
        """Returns the label with every easy pixel ignored."""
        pixel_losses = per_pixel_loss(logits, label, align_corners=self.align_corners)
        if label.device.type == "cpu" and logits.shape[1] <= IGNORE:
            # per_pixel_loss has checked the values; a copy in 8 bytes per pixel would be the largest tensor here.
            label = label.byte()
        if self.cfg.fraction is not None:
            return hardest_label(label, pixel_losses, fraction=self.cfg.fraction)
        min_kept = -(-self.cfg.min_kept // (step.micro_batches * step.group.world_size))
        return ohem_label(label, pixel_losses, threshold=self.cfg.threshold, min_kept=min_kept)

    def _cross_entropy(self, logits: Tensor, label: Tensor, divisor: Tensor) -> Tensor:
        return pixel_cross_entropy(
            logits, label, align_corners=self.align_corners, class_weight=self.class_weight, normalize_by=divisor
        )


LOSS = OHEMLoss
