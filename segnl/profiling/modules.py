"""A part of a network that can be looked at by itself: all of it, its head, or the block of the head that attends."""

from typing import Literal

import torch
from torch import Tensor, nn

from segnl.core.errors import ConfigError
from segnl.models.blocks.criss_cross import CrissCrossBlock
from segnl.models.blocks.non_local import NonLocalBlock
from segnl.models.segmenter import Segmenter

Part = Literal["attention", "head", "model"]


class HeadAndClassifier(nn.Module):
    """Stages to logits: what differs between two heads, and the classifier on their channels."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.head, self.dropout, self.classifier = model.head, model.dropout, model.classifier

    def forward(self, stages: list[Tensor]) -> Tensor:
        """stages: c2..c5, `b c h w` each. Returns logits `b k h w`."""
        logits: Tensor = self.classifier(self.dropout(self.head(stages).context))
        return logits


def part_of(model: Segmenter, part: Part) -> nn.Module:
    """The network without its auxiliary head, its head with the classifier, or the block of the head that attends.

    Raises ConfigError where no such block is in the head.
    """
    if part == "model":
        model.auxiliary = None
        return model
    if part == "head":
        return HeadAndClassifier(model)
    blocks = [each for each in model.head.modules() if isinstance(each, CrissCrossBlock | NonLocalBlock)]
    if not blocks:
        raise ConfigError(
            f"--module attention: {type(model.head).__name__} has no non-local or criss-cross block; take --module head"
        )
    return blocks[0]


@torch.no_grad()
def inputs_of(model: Segmenter, module: nn.Module, part: Part, hw: tuple[int, int]) -> list[Tensor]:
    """What reaches the part when the network sees one image: the image, the stages, or the map."""
    image = torch.zeros(1, 3, *hw)
    if part == "model":
        return [image]
    stages = list(model.backbone(image))
    if part == "head":
        return stages
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model.head(stages)
    finally:
        hook.remove()
    return seen[:1]
