"""The training loss: one for every head. Upsampling happens inside, band of rows by band (ops/pixel_loss.py)."""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from segnl.core.config import Config
from segnl.engine.class_weight import Balance
from segnl.models.segmenter import Logits
from segnl.ops.pixel_loss import pixel_cross_entropy, pixel_ohem_cross_entropy


class LossConfig(Config):
    """What every pixel loss shares."""

    divide_by: Literal["valid", "all"] = "valid"
    """The mean over labelled pixels, or mmsegmentation's over all of them (docs/adr/0005)."""
    class_weight: Balance | None = None
    """How rare classes are weighted up, from the training labels (engine/class_weight.py); null: not."""


class CrossEntropyConfig(LossConfig):
    """Cross-entropy of the upsampled logits."""

    name: Literal["cross_entropy"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class OhemConfig(LossConfig):
    """Cross-entropy of hard pixels only, on the main logits (Shrivastava et al. 2016, in CCNet's form)."""

    name: Literal["ohem"]
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """A pixel is hard while its true class's probability is below this."""
    min_kept: Annotated[int, Field(ge=1)] = 100_000
    """At least so many of the batch's hardest pixels count."""


BAND_NUMBERS = 2**18  # upsampled logits of an image held at a time: a megabyte

LOSSES: dict[str, type[LossConfig]] = {"cross_entropy": CrossEntropyConfig, "ohem": OhemConfig}


def losses(
    cfg: LossConfig,
    logits: Logits,
    label: Tensor,
    *,
    aux_weight: float,
    align_corners: bool,
    class_weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """{"main": scalar, "NAME": scalar already weighted, ...}; their sum is what a step minimises.

    label: int64 `b H W`, 255 ignored. class_weight: `k`; a mean over valid pixels is then one by weight.
    Labels that are all ignored give exactly 0 with zero gradients, never NaN.
    """
    plain = partial(
        pixel_cross_entropy,
        label=label,
        align_corners=align_corners,
        class_weight=class_weight,
        label_smoothing=cfg.label_smoothing if isinstance(cfg, CrossEntropyConfig) else 0.0,
        divide_by=cfg.divide_by,
        # A thin band of a small crop costs more in calls than it saves in cache.
        band_rows=max(16, BAND_NUMBERS // (logits.main.shape[1] * label.shape[2])),
    )
    if isinstance(cfg, OhemConfig):
        main = pixel_ohem_cross_entropy(
            logits.main,
            label,
            align_corners=align_corners,
            threshold=cfg.threshold,
            min_kept=cfg.min_kept,
            class_weight=class_weight,
            divide_by=cfg.divide_by,
        )
    else:
        main = plain(logits.main)
    return {"main": main} | {name: aux_weight * plain(aux) for name, aux in logits.aux.items()}
