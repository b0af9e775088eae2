"""A weighted sum of losses: `loss: {name: sum, losses: [{name: cross_entropy}, {name: dice, weight: 0.5}]}`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal, Self

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from segnl.core.arrays import Counts
from segnl.losses.base import Loss, LossConfig, StepNormalizer
from segnl.losses.find import LOSSES, build_loss


def _single(loss: LossConfig) -> LossConfig:
    if isinstance(loss, SumConfig):
        raise ValueError("a sum in a sum; list its losses here")
    return loss


class SumConfig(LossConfig):
    """Settings of the sum."""

    name: str = "sum"
    losses: Annotated[tuple[Annotated[LossConfig, LOSSES, AfterValidator(_single)], ...], Field(min_length=1)]
    """The losses with their own settings; `weight` is the factor of each."""
    divide_by: Literal["valid"] = "valid"
    class_weight: None = None
    """Set by each loss for itself."""

    @property
    def needs_class_pixels(self) -> bool:
        """Whether one of the losses needs them."""
        return any(loss.needs_class_pixels for loss in self.losses)


class SumLoss(Loss):
    """Sum of losses, each times its own `weight`."""

    Config = SumConfig
    cfg: SumConfig

    def __init__(self, cfg: SumConfig, losses: Sequence[Loss]) -> None:
        super().__init__(cfg)
        self.losses = nn.ModuleList(losses)

    @classmethod
    def build(  # type: ignore[override]  # `LOSSES.find` chose this class by the settings' name
        cls, cfg: SumConfig, num_classes: int, class_pixels: Counts | None, *, align_corners: bool
    ) -> Self:
        """Builds each loss of the sum."""
        build = partial(build_loss, num_classes=num_classes, class_pixels=class_pixels, align_corners=align_corners)
        return cls(cfg, [build(loss) for loss in cfg.losses])

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Returns the sum for logits `b k H W` and label `b H W`."""
        return self._weighted(lambda loss, _: loss(logits, label))

    def of_step(self, logits: Tensor, label: Tensor, step: StepNormalizer) -> Tensor:
        """Returns the micro-batch's summand of the step's loss."""
        return self._weighted(lambda loss, i: loss.of_step(logits, label, replace(step, divisor=step.divisor[i])))

    def of_auxiliary(self, logits: Tensor, label: Tensor, step: StepNormalizer) -> Tensor:
        """Returns the same for the logits of an auxiliary head."""
        return self._weighted(lambda loss, i: loss.of_auxiliary(logits, label, replace(step, divisor=step.divisor[i])))

    def divisor(self, label: Tensor) -> Tensor:
        """Returns the divisor of each loss, float64 `n`."""
        return torch.stack([loss.divisor(label) for loss in self._members])

    @property
    def _members(self) -> list[Loss]:
        return [loss for loss in self.losses if isinstance(loss, Loss)]

    def _weighted(self, value: Callable[[Loss, int], Tensor]) -> Tensor:
        return torch.stack([loss.cfg.weight * value(loss, i) for i, loss in enumerate(self._members)]).sum()


LOSS = SumLoss
