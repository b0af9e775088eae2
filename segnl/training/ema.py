"""Exponential moving average (EMA) of a network's weights, which is evaluated and scored in their place."""

import copy

import torch
from torch import nn

from segnl.models.segmenter import Segmenter


class ModelEMA:
    """Exponential moving average of parameters and running statistics; counters are copied.

    Source: Polyak and Juditsky 1992; in the exponential form, Tarvainen and Valpola 2017, arXiv:1703.01780.
    """

    def __init__(self, model: Segmenter, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves towards the weights that `model` has after `step` steps (1, 2, ...).

        The decay is min(decay, (1 + step) / (10 + step)), so that the random initial weights lose their part soon.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, new in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(new, 1 - decay)
            else:
                average.copy_(new)
