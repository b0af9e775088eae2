"""Settings that every optimiser has, and the parameter groups that follow from them."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field
from torch import nn, optim

from segnl.core.config import Config, NumberAboveZero


def _of_float32(value: float) -> float:
    if value > 1e30:
        raise ValueError("expected at most 1e30, absurd as well but a number of float32")
    return value


Rate = Annotated[float, Field(gt=0, le=1e308), AfterValidator(_of_float32)]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm)
HEAD_MODULES = ("head", "classifier", "auxiliary")


class OptimiserConfig(Config):
    """Settings of an optimiser; a subclass adds its own and `build`, and its file ends with `OPTIMISER = THE_CLASS`."""

    name: str
    lr: Rate
    weight_decay: Annotated[float, Field(ge=0, le=1e308), AfterValidator(_of_float32)] = 0.0
    decay_norms: bool = True
    """Whether norms and biases decay too, as the published recipes do (one group)."""
    head_lr_mult: Rate = 1.0
    gamma_lr_mult: Rate = 1.0
    """Factor on top of the head's for the parameters that let attention in: gamma of rcca and da, the gain of the last
    norm of non_local and dnl."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate from each stage of the backbone to the one before it, and from head to c5."""
    clip_norm: NumberAboveZero | None = None
    """Largest Euclidean norm of the whole gradient, which is scaled down to it; null: no limit."""

    def build(self, groups: list[dict[str, Any]]) -> optim.Optimizer:
        """Returns the optimiser over parameter groups that carry `params` and their own `weight_decay`."""
        raise NotImplementedError


def build_optimiser(cfg: OptimiserConfig, model: nn.Module) -> optim.Optimizer:
    """Returns the optimiser of the model's parameters; each group carries `lr_mult` for `set_learning_rate`.

    Groups are keyed by (lr_mult, weight_decay), so a recipe without multipliers has one group, as published.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    stages = model.backbone.stage_modules() if cfg.layer_decay < 1 else []  # type: ignore[union-attr,operator]
    layer_factors = {
        parameter: cfg.layer_decay ** (len(stages) - index)
        for index, modules in enumerate(stages)
        for module in modules
        for parameter in module.parameters()
    }
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                lr_mult, decay = _group_of(cfg, f"{path}.{name}", module, parameter)
                key = (lr_mult * layer_factors.get(parameter, 1.0), decay)
                groups.setdefault(key, []).append(parameter)
    return cfg.build(
        [{"params": members, "lr_mult": lr_mult, "weight_decay": decay} for (lr_mult, decay), members in groups.items()]
    )


def _group_of(cfg: OptimiserConfig, path: str, module: nn.Module, parameter: nn.Parameter) -> tuple[float, float]:
    lr_mult = 1.0
    if path.split(".")[0] in HEAD_MODULES:
        lr_mult *= cfg.head_lr_mult
    if getattr(module, "opens_attention", False):
        lr_mult *= cfg.gamma_lr_mult
    is_norm_or_bias = isinstance(module, NORMS) or path.endswith(".bias") or parameter.ndim == 0
    return lr_mult, 0.0 if is_norm_or_bias and not cfg.decay_norms else cfg.weight_decay


def set_learning_rate(optimiser: optim.Optimizer, lr: float) -> None:
    """Gives every group `lr` times its own multiplier."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_mult"]
