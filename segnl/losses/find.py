"""Losses by name: their settings in a recipe, and the modules built from these."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import create_model

from segnl.core.arrays import Counts
from segnl.core.components import Components
from segnl.core.errors import ConfigError
from segnl.losses.base import Loss, LossConfig, class_weights
from segnl.losses.sum import SumConfig, SumLoss

LOSSES = Components("segnl.losses", "LOSS", key="loss.name", base=Loss)


def loss_schema(recipe: Mapping[str, Any], file: str) -> type[LossConfig]:
    """Returns the settings of the loss that a recipe names; those of a sum hold the settings of each loss in it.

    Raises ConfigError naming `file` and the key.
    """
    schema: type[LossConfig] = LOSSES.find_in(recipe, file).Config
    if schema is not SumConfig:
        return schema
    losses = recipe["loss"].get("losses")
    if not isinstance(losses, list) or not losses:
        example = "[{name: cross_entropy}, {name: dice, weight: 0.5}]"
        raise ConfigError(f"{file}: loss.losses: holds {losses!r}; expected a list of losses such as {example}")
    schemas = [replace(LOSSES, key=f"loss.losses.{i}.name").find_at(loss, file).Config for i, loss in enumerate(losses)]
    if SumConfig in schemas:
        raise ConfigError(f"{file}: loss.losses.{schemas.index(SumConfig)}: a sum in a sum; list its losses here")
    fields: dict[str, Any] = {"losses": (tuple[tuple(schemas)], ...)}  # type: ignore[misc]  # one entry for each
    return create_model("SumConfig", __base__=SumConfig, **fields)


def needs_class_pixels(cfg: LossConfig) -> bool:
    """Returns whether some class weights follow from the number of each class's pixels."""
    return any(isinstance(loss.class_weight, str) for loss in _members(cfg))


def build_loss(
    cfg: LossConfig, num_classes: int, class_pixels: Counts | None = None, *, align_corners: bool = False
) -> Loss:
    """Returns the loss of a recipe. class_pixels: int64 `k`, for `needs_class_pixels`; see `Loss` for align_corners.

    Raises ConfigError when there are not as many class weights as classes.
    """
    losses = []
    for member in _members(cfg):
        weights = class_weights(member.class_weight, num_classes, class_pixels)
        losses.append(LOSSES.find(member.name)(member, weights, align_corners=align_corners))
    return SumLoss(cfg, losses) if isinstance(cfg, SumConfig) else losses[0]


def _members(cfg: LossConfig) -> tuple[LossConfig, ...]:
    return cfg.losses if isinstance(cfg, SumConfig) else (cfg,)
