"""Optimisers with parameter groups, and learning rates as pure functions of the step."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from torch import nn, optim

from segnl.core.config import Config


def _of_float32(value: float) -> float:
    if value > 1e30:
        raise ValueError("expected at most 1e30, absurd as well but a number of float32")
    return value


Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0), AfterValidator(_of_float32)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm)
HEAD_PARTS = ("head", "classifier", "auxiliary")


class GroupsConfig(Config):
    """What parameter groups share, whatever the optimiser."""

    lr: Rate
    weight_decay: Annotated[float, Field(ge=0), AfterValidator(_of_float32)] = 0.0
    decay_norms: bool = True
    """Whether norms and biases decay too, as the published recipes do (one group)."""
    head_lr_mult: Rate = 1.0
    gamma_lr_mult: Rate = 1.0
    """For what lets attention in (gamma of rcca and da, the gain of the last norm of non_local and dnl), on top of the
    head's."""
    clip_norm: Positive | None = None
    """The gradient of all parameters together is scaled down to this Euclidean norm; null: never."""


class SGDConfig(GroupsConfig):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    momentum: Share = 0.9
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "SGDConfig":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class AdamWConfig(GroupsConfig):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    name: Literal["adamw"]
    betas: tuple[Decay, Decay] = (0.9, 0.999)


class ScheduleConfig(Config):
    """How the learning rate moves over a training; each schedule says its course in `factor`."""

    warmup_steps: Annotated[int, Field(ge=0)] = 0
    end_lr: Annotated[float, Field(ge=0)] = 0.0
    """The learning rate at the last step, absolute; never above the first."""

    def course(self, done: float) -> float:
        """1 at done = 0, 0 at done = 1."""
        raise NotImplementedError


class PolyConfig(ScheduleConfig):
    """(1 - done) ** power, DeepLab's schedule."""

    name: Literal["poly"]
    power: Positive = 0.9

    def course(self, done: float) -> float:
        return float((1 - done) ** self.power)


class CosineConfig(ScheduleConfig):
    """Half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983)."""

    name: Literal["cosine"]

    def course(self, done: float) -> float:
        return (1 + math.cos(math.pi * done)) / 2


OPTIMISERS: dict[str, type[GroupsConfig]] = {"sgd": SGDConfig, "adamw": AdamWConfig}
SCHEDULES: dict[str, type[ScheduleConfig]] = {"poly": PolyConfig, "cosine": CosineConfig}


def learning_rate(schedule: ScheduleConfig, step: int, *, max_steps: int, lr: float) -> float:
    """The base learning rate of step 0, 1 ... max_steps - 1: a linear warm-up, then the schedule's course to end_lr."""
    if step < schedule.warmup_steps:
        return lr * (step + 1) / (schedule.warmup_steps + 1)
    done = (step - schedule.warmup_steps) / max(1, max_steps - schedule.warmup_steps)
    end = min(schedule.end_lr, lr)
    return end + (lr - end) * schedule.course(min(done, 1.0))


def build_optimiser(cfg: GroupsConfig, model: nn.Module) -> optim.Optimizer:
    """SGD or AdamW over the model's parameters; each group carries `lr_mult`, which `set_learning_rate` multiplies by.

    Groups are keyed by (lr_mult, weight_decay), so a recipe without multipliers has one group, as published.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                key = _group_of(cfg, f"{path}.{name}", module, parameter)
                groups.setdefault(key, []).append(parameter)
    params = [
        {"params": members, "lr_mult": lr_mult, "weight_decay": decay} for (lr_mult, decay), members in groups.items()
    ]
    if isinstance(cfg, SGDConfig):
        return optim.SGD(params, lr=cfg.lr, momentum=cfg.momentum, nesterov=cfg.nesterov)
    if isinstance(cfg, AdamWConfig):
        return optim.AdamW(params, lr=cfg.lr, betas=cfg.betas)
    raise TypeError(f"no optimiser is known for {type(cfg).__name__}")


def _group_of(cfg: GroupsConfig, path: str, module: nn.Module, parameter: nn.Parameter) -> tuple[float, float]:
    lr_mult = 1.0
    if path.split(".")[0] in HEAD_PARTS:
        lr_mult *= cfg.head_lr_mult
    if getattr(module, "opens_attention", False):
        lr_mult *= cfg.gamma_lr_mult
    is_plain = isinstance(module, NORMS) or path.endswith(".bias") or parameter.ndim == 0
    return lr_mult, 0.0 if is_plain and not cfg.decay_norms else cfg.weight_decay


def set_learning_rate(optimiser: optim.Optimizer, lr: float) -> None:
    """Gives every group `lr` times its own multiplier."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_mult"]
