"""Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

from typing import Annotated, Any

from pydantic import Field
from torch import optim

from segnl.optim.optimisers.base import OptimiserConfig

Decay = Annotated[float, Field(ge=0, lt=1)]


class AdamWConfig(OptimiserConfig):
    """Settings and construction of torch's AdamW."""

    name: str = "adamw"
    betas: tuple[Decay, Decay] = (0.9, 0.999)

    def build(self, groups: list[dict[str, Any]]) -> optim.Optimizer:
        """Returns torch's AdamW."""
        return optim.AdamW(groups, lr=self.lr, betas=self.betas)


OPTIMISER = AdamWConfig
