"""Imported models as plain modules: tensor in, logits out, as the projects they come from give them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segnl.models.blocks.conv import NormalInitConv2d
from segnl.models.heads.base import ContextHead
from segnl.models.segmenter import BatchNormConfig, ModelConfig, Segmenter, set_batch_norm
from segnl.models.weights.strict import ImportReport
from segnl.ops.resize import resize


@dataclass(frozen=True)
class Import:
    """A model from elsewhere: the section `model` of a recipe, our tensors by our names, and what became of theirs."""

    model: dict[str, Any]
    num_classes: int
    state: dict[str, Tensor]
    report: ImportReport


class ImportedModel(nn.Module):
    """A segmenter whose logits are upsampled to the image's size."""

    def __init__(self, cfg: ModelConfig, segmenter: Segmenter, report: ImportReport) -> None:
        super().__init__()
        # In torch's usual layout oneDNN rounds coarser: error 3.6e-5 instead of 1.6e-5 on the recorded model-ccnet-r18.
        self.segmenter = segmenter.to(memory_format=torch.channels_last)
        self.model: dict[str, Any] = cfg.model_dump(mode="json")
        """The section `model` of its recipe, every key written out: mean, std, channel order and align_corners too."""
        self.report = report

    def forward(self, image: Tensor) -> Tensor:
        """image: float `b 3 H W`, normalised, in the peer's channel order. Returns logits `b k H W`."""
        logits = self.segmenter(image.contiguous(memory_format=torch.channels_last)).main
        return resize(logits, (image.shape[-2], image.shape[-1]), align_corners=self.segmenter.align_corners)

    def as_import(self) -> Import:
        """What a checkpoint of ours needs."""
        return Import(self.model, self.segmenter.num_classes, self.segmenter.state_dict(), self.report)


class ImportedHead(nn.Module):
    """A head with its classifier and without a backbone."""

    report: ImportReport

    def __init__(
        self, head: ContextHead, num_classes: int, dropout: float, batch_norm: BatchNormConfig, *, align_corners: bool
    ) -> None:
        super().__init__()
        self.head = head
        self.head.align_corners = align_corners
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = NormalInitConv2d(head.out_channels, num_classes, 1)
        set_batch_norm(self, batch_norm)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """stages: c2..c5, `b c h w`, unused ones None. Returns logits `b k h w`."""
        return self.classifier(self.dropout(self.head(stages).context))
