"""Stochastic gradient descent with momentum."""

from typing import Annotated, Any

from pydantic import Field, model_validator
from torch import optim

from segnl.optim.optimisers.base import OptimiserConfig


class SGDConfig(OptimiserConfig):
    """Settings and construction of torch's SGD."""

    name: str = "sgd"
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.9
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "SGDConfig":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    def build(self, groups: list[dict[str, Any]]) -> optim.Optimizer:
        """Returns torch's SGD."""
        return optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)


OPTIMISER = SGDConfig
