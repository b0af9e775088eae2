"""Losses, found by name."""

from segnl.core.arrays import Counts
from segnl.core.components import Components
from segnl.losses.base import Loss, LossConfig

LOSSES = Components("segnl.losses", "LOSS", key="loss.name", base=Loss)


def build_loss(
    cfg: LossConfig, num_classes: int, class_pixels: Counts | None = None, *, align_corners: bool = False
) -> Loss:
    """Returns the loss of a recipe. class_pixels: int64 `k`, where `cfg.needs_class_pixels`; align_corners: see `Loss`.

    Raises ConfigError when there are not as many class weights as classes.
    """
    loss: Loss = LOSSES.find(cfg.name).build(cfg, num_classes, class_pixels, align_corners=align_corners)
    return loss
