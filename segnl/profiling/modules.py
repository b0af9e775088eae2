"""Modules of a network that can be profiled alone: the predicting network, its head, or its attention block."""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from segnl.core.errors import ConfigError
from segnl.models.blocks.criss_cross import CrissCrossBlock
from segnl.models.blocks.non_local import NonLocalBlock
from segnl.models.segmenter import Segmenter

ModuleName = Literal["attention", "head", "model"]


class HeadAndClassifier(nn.Module):
    """Head, dropout and classifier of a network: stages to logits."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.head, self.dropout, self.classifier = model.head, model.dropout, model.classifier

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Maps stages c2..c5, `b c h w` each, to logits `b k h w`."""
        logits: Tensor = self.classifier(self.dropout(self.head(stages).context))
        return logits


def select_module(model: Segmenter, name: ModuleName) -> nn.Module:
    """Returns a copy of the network without its auxiliary head, or its own head with classifier or attention block.

    Raises ConfigError where the head has no non-local or criss-cross block.
    """
    if name == "model":
        predictor = copy.deepcopy(model)
        predictor.auxiliary = None
        return predictor
    if name == "head":
        return HeadAndClassifier(model)
    for module in model.head.modules():
        if isinstance(module, CrissCrossBlock | NonLocalBlock):
            return module
    raise ConfigError(
        f"--module attention: {type(model.head).__name__} has no non-local or criss-cross block; take --module head"
    )


@torch.no_grad()
def inputs_of(model: Segmenter, module: nn.Module, name: ModuleName, hw: tuple[int, int]) -> list[Tensor]:
    """Returns the module's inputs when the network sees one image of `hw` pixels: the image, the stages, or a map."""
    image = torch.zeros(1, 3, *hw)
    if name == "model":
        return [image]
    stages = list(model.backbone(image))
    if name == "head":
        return stages
    inputs: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        model.head(stages)
    finally:
        hook.remove()
    return inputs[:1]
