"""The contract of a loss, its common settings, and the share that a micro-batch has in the loss of its step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Discriminator, Field, Tag
from torch import Tensor, nn

from segnl.core.arrays import Counts
from segnl.core.config import Config, NumberAboveZero
from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup
from segnl.core.errors import ConfigError
from segnl.models.segmenter import Logits
from segnl.ops.pixel_loss import pixel_weight_sum
from segnl.ops.resize import resize

Balance = Literal["enet", "enet_sqrt", "median_frequency"]
ClassWeight = Annotated[
    Annotated[Balance, Tag("formula")] | Annotated[tuple[Annotated[float, Field(ge=0, le=1e6)], ...], Tag("numbers")],
    Discriminator(lambda value: "numbers" if isinstance(value, list | tuple) else "formula"),
]


class LossConfig(Config):
    """Settings that every loss has."""

    name: str
    weight: NumberAboveZero = 1.0
    """Factor of the loss, for a sum of several (losses/sum.py)."""
    divide_by: Literal["valid", "all"] = "valid"
    """The mean over labelled pixels, or mmsegmentation's over all of them (docs/adr/0005)."""
    class_weight: ClassWeight | None = None
    """A number for each class, or a formula that weights rare classes up, from the training labels (`class_weights`);
    null: all classes weigh 1."""

    @property
    def needs_class_pixels(self) -> bool:
        """Whether class weights follow from the number of each class's pixels."""
        return isinstance(self.class_weight, str)


@dataclass(frozen=True)
class StepNormalizer:
    """The normalization of a step's loss, for a micro-batch that is only a part of that step.

    divisor: float64, `Loss.divisor` summed over all micro-batches of all processes.
    micro_batches: how many each process has.
    """

    divisor: Tensor
    micro_batches: int = 1
    group: ProcessGroup = SINGLE_PROCESS


class Loss(nn.Module):
    """Training loss of class scores; a subclass's file ends with `LOSS = THE_CLASS`.

    A subclass sets `Config` and implements `forward`, which applies `self.class_weight` itself where it is not None.
    One that needs no upsampled logits overrides `of_step` as well, so that nothing of size `b k H W` has to exist.
    """

    Config: ClassVar[type[LossConfig]] = LossConfig
    class_weight: Tensor | None

    def __init__(self, cfg: LossConfig, class_weight: Tensor | None = None, *, align_corners: bool = False) -> None:
        """class_weight: float `k`. align_corners: how logits are upsampled to the label's size."""
        super().__init__()
        self.cfg, self.align_corners = cfg, align_corners
        self.register_buffer("class_weight", class_weight)

    @classmethod
    def build(cls, cfg: LossConfig, num_classes: int, class_pixels: Counts | None, *, align_corners: bool) -> Self:
        """Returns the loss with the class weights of its settings; raises as `class_weights`."""
        return cls(cfg, class_weights(cfg.class_weight, num_classes, class_pixels), align_corners=align_corners)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Returns the scalar loss of logits `b k H W` for label `b H W` (0..k-1, 255 ignored).

        It must be 0, not NaN, where all pixels are ignored.
        """
        raise NotImplementedError

    def of_step(self, logits: Tensor, label: Tensor, step: StepNormalizer) -> Tensor:
        """Returns the micro-batch's summand of its step's loss. logits: `b k h w` at feature size; label: `b H W`.

        Here every micro-batch weighs the same; a mean over pixels divides by `step.divisor` instead.
        """
        return self(self.upsampled(logits, label), label.long()) / (step.micro_batches * step.group.world_size)

    def of_auxiliary(self, logits: Tensor, label: Tensor, step: StepNormalizer) -> Tensor:
        """Returns the same for the logits of an auxiliary head; a loss for main logits alone overrides it."""
        return self.of_step(logits, label, step)

    def upsampled(self, logits: Tensor, label: Tensor) -> Tensor:
        """Returns logits `b k h w` at the label's size, `b k H W`, at least in float32."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return resize(logits, (label.shape[-2], label.shape[-1]), align_corners=self.align_corners)

    def mean_over_classes(self, losses: Tensor, is_present: Tensor) -> Tensor:
        """Returns the mean of `losses` `k` by class weight over the classes present, bool `k`; 0 where none is."""
        weight = is_present.to(losses) if self.class_weight is None else is_present * self.class_weight.to(losses)
        total = weight.sum()
        return (weight * losses).sum() / torch.where(total == 0, 1, total)

    def divisor(self, label: Tensor) -> Tensor:
        """Returns what a mean over `label` divides by, float64: its valid pixels by class weight, or all its pixels.

        A scalar; for a sum of n losses it is `n`. 0 for a label without pixels.
        """
        if self.cfg.divide_by == "all":
            return torch.full((), float(label.numel()), dtype=torch.float64, device=label.device)
        return pixel_weight_sum(label, class_weight=self.class_weight)

    def by_name(
        self, logits: Logits, label: Tensor, step: StepNormalizer, aux_weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Returns {"main": scalar, "NAME": scalar already weighted, ...}, whose sum a step minimises.

        label: integer `b H W`, 255 ignored. aux_weights: by name of `logits.aux`, 1 where there is none.
        """
        weight = self.cfg.weight
        losses = {"main": weight * self.of_step(logits.main, label, step)}
        for name, aux_logits in logits.aux.items():
            losses[name] = weight * aux_weights.get(name, 1.0) * self.of_auxiliary(aux_logits, label, step)
        return losses


class PixelLoss(Loss):
    """Loss that is a mean over pixels: a subclass implements `of_step` in place of `forward`."""

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Returns the loss of logits `b k h w` of any size for label `b H W`."""
        return self.of_step(logits, label, StepNormalizer(self.divisor(label)))


def class_weights(
    setting: Balance | tuple[float, ...] | None, num_classes: int, class_pixels: Counts | None = None
) -> Tensor | None:
    """Returns float32 `k`, a weight for each class, or None for ones.

    setting: `LossConfig.class_weight`. class_pixels: int64 `k`, each class's pixels in the training labels, for the
    formulas:
    enet: 1 / ln(1.02 + p), p the class's share of labelled pixels (Paszke et al. 2016, arXiv:1606.02147).
    enet_sqrt: its square root, which keeps a third of the contrast and costs less precision.
    median_frequency: the median share over the class's share (Eigen and Fergus 2015, arXiv:1411.4734, with shares over
    the whole split). A class without a pixel weighs 1 there: nothing is known of it, and it has no term in the loss.

    Raises ConfigError for another number of weights than classes, ValueError for a formula without class_pixels.
    """
    if setting is None:
        return None
    if not isinstance(setting, str):
        if len(setting) != num_classes:
            raise ConfigError(
                f"loss.class_weight: {len(setting)} numbers, but the data set has {num_classes} classes; give one each"
            )
        return torch.tensor(setting)
    if class_pixels is None:
        raise ValueError(f"class_weight {setting}: needs class_pixels")
    share = class_pixels / max(1, int(class_pixels.sum()))
    if setting in ("enet", "enet_sqrt"):
        weight = (1 / np.log(1.02 + share)) ** (0.5 if setting == "enet_sqrt" else 1.0)
    else:
        present = share > 0
        median = float(np.median(share[present])) if present.any() else 1.0
        weight = np.divide(median, share, out=np.ones_like(share), where=present)
    return torch.from_numpy(weight.astype(np.float32))
