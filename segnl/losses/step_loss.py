"""The training loss: one for every head. Upsampling happens inside, band of rows by band (ops/pixel_loss.py)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from segnl.core import IGNORE
from segnl.core.config import Config
from segnl.losses.class_weight import Balance
from segnl.models.segmenter import Logits
from segnl.ops.pixel_loss import (
    hardest_label,
    ohem_label,
    per_pixel_loss,
    pixel_cross_entropy,
    pixel_weight_sum,
)


class LossConfig(Config):
    """What every pixel loss shares."""

    divide_by: Literal["valid", "all"] = "valid"
    """The mean over labelled pixels, or mmsegmentation's over all of them (docs/adr/0005)."""
    class_weight: Balance | None = None
    """How rare classes are weighted up, from the training labels (losses/class_weight.py); null: not."""


class CrossEntropyConfig(LossConfig):
    """Cross-entropy of the upsampled logits."""

    name: Literal["cross_entropy"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class OhemConfig(LossConfig):
    """Cross-entropy of hard pixels only, on the main logits (Shrivastava et al. 2016): CCNet's form, or a fraction.

    Pixels are mined within what passes the network at once: a rank's images, or a piece of them where steps are
    accumulated. The mean is over the pixels kept: those of all ranks, and every piece weighs the same.
    """

    name: Literal["ohem"]
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """A pixel is hard while its true class's probability is below this."""
    min_kept: Annotated[int, Field(ge=1)] = 100_000
    """At least so many of the step's hardest pixels count; ranks and pieces have equal shares of the number."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """In place of the two above: this share of the labelled pixels, the hardest, counts."""


LOSSES: dict[str, type[LossConfig]] = {"cross_entropy": CrossEntropyConfig, "ohem": OhemConfig}


@dataclass(frozen=True)
class Share:
    """What a batch must know of the whole step when it is only a piece of it, or one rank's.

    count: float64 scalar, `step_count` of all pieces on all ranks.  pieces: of each rank.
    over_ranks: adds up one scalar of each rank; every rank calls it at the same place.
    """

    count: Tensor
    pieces: int = 1
    world: int = 1
    over_ranks: Callable[[Tensor], Tensor] = lambda value: value


def step_count(cfg: LossConfig, label: Tensor, class_weight: Tensor | None) -> Tensor:
    """What the mean over `label` divides by, float64: its valid pixels, by class weight, or all of its pixels."""
    if cfg.divide_by == "all":
        return torch.full((), float(label.numel()), dtype=torch.float64, device=label.device)
    return pixel_weight_sum(label, class_weight=class_weight)


def losses(
    cfg: LossConfig,
    logits: Logits,
    label: Tensor,
    *,
    aux_weights: Mapping[str, float],
    align_corners: bool,
    class_weight: Tensor | None = None,
    share: Share | None = None,
) -> dict[str, Tensor]:
    """{"main": scalar, "NAME": scalar already weighted, ...}; their sum is what a step minimises.

    label: int64 `b H W`, 255 ignored. aux_weights: by name of `logits.aux`, 1 where there is none.
    class_weight: `k`; a mean over valid pixels is then one by weight.
    share: for a batch that is a part of a step; the parts' losses then add up to the whole step's.
    Labels that are all ignored give exactly 0 with zero gradients, never NaN.
    """
    if share is None:
        share = Share(step_count(cfg, label, class_weight))
    plain = partial(
        pixel_cross_entropy,
        label=label,
        align_corners=align_corners,
        class_weight=class_weight,
        label_smoothing=cfg.label_smoothing if isinstance(cfg, CrossEntropyConfig) else 0.0,
    )
    if isinstance(cfg, OhemConfig):
        kept = _hard_pixels(cfg, logits.main, label, share, align_corners=align_corners)
        count = share.count
        if cfg.divide_by == "valid":
            count = share.pieces * share.over_ranks(pixel_weight_sum(kept, class_weight=class_weight))
        main = plain(logits.main, label=kept, divide_by=count)
    else:
        main = plain(logits.main, divide_by=share.count)
    aux = {name: aux_weights.get(name, 1.0) * plain(each, divide_by=share.count) for name, each in logits.aux.items()}
    return {"main": main} | aux


def _hard_pixels(cfg: OhemConfig, logits: Tensor, label: Tensor, share: Share, *, align_corners: bool) -> Tensor:
    """The label with every easy pixel ignored."""
    pixel_losses = per_pixel_loss(logits, label, align_corners=align_corners)
    if label.device.type == "cpu" and logits.shape[1] <= IGNORE:
        label = label.byte()  # checked by per_pixel_loss; a copy in 8 bytes a pixel would be the largest tensor here
    if cfg.fraction is not None:
        return hardest_label(label, pixel_losses, fraction=cfg.fraction)
    min_kept = -(-cfg.min_kept // (share.pieces * share.world))
    return ohem_label(label, pixel_losses, threshold=cfg.threshold, min_kept=min_kept)
