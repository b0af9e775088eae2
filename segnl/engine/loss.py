"""The training loss: one for every head. Upsampling happens inside, band of rows by band (ops/pixel_loss.py)."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from segnl.core.config import Config
from segnl.models.segmenter import Logits
from segnl.ops.pixel_loss import pixel_cross_entropy, pixel_ohem_cross_entropy


class LossConfig(Config):
    """What every pixel loss shares."""

    divide_by: Literal["valid", "all"] = "valid"
    """The mean over labelled pixels, or mmsegmentation's over all of them (docs/adr/0005)."""


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
    cfg: LossConfig, logits: Logits, label: Tensor, *, aux_weight: float, align_corners: bool
) -> dict[str, Tensor]:
    """{"main": scalar, "NAME": scalar already weighted, ...}; their sum is what a step minimises.

    label: int64 `b H W`, 255 ignored. Labels that are all ignored give exactly 0 with zero gradients, never NaN.
    """
    if isinstance(cfg, OhemConfig):
        main = pixel_ohem_cross_entropy(
            logits.main, label, align_corners=align_corners, threshold=cfg.threshold, min_kept=cfg.min_kept
        )
        smoothing = 0.0
    elif isinstance(cfg, CrossEntropyConfig):
        smoothing = cfg.label_smoothing
        main = _cross_entropy(cfg, logits.main, label, smoothing, align_corners=align_corners)
    else:
        raise TypeError(f"no loss is known for {type(cfg).__name__}")
    parts = {"main": main}
    for name, aux in logits.aux.items():
        parts[name] = aux_weight * _cross_entropy(cfg, aux, label, smoothing, align_corners=align_corners)
    return parts


def _cross_entropy(cfg: LossConfig, logits: Tensor, label: Tensor, smoothing: float, *, align_corners: bool) -> Tensor:
    return pixel_cross_entropy(
        logits,
        label,
        align_corners=align_corners,
        label_smoothing=smoothing,
        divide_by=cfg.divide_by,
        # A thin band of a small crop costs more in calls than it saves in cache.
        band_rows=max(16, BAND_NUMBERS // (logits.shape[1] * label.shape[2])),
    )
