"""Interface of heads: stages to one context map. Classifier, loss and upsampling are shared by all heads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import Config
from segnl.models.blocks.attention_rows import AttentionRows
from segnl.models.blocks.conv_context_conv import ConvContextConv, ConvContextConvConfig
from segnl.ops.resize import resize


class HeadConfig(Config):
    """Settings of every head."""

    name: str
    in_stages: tuple[int, ...] = Field((3,), min_length=1)
    """Input stages, 0 = c2 .. 3 = c5; several are resized to the first one's size and concatenated."""


def channels_of(stage: int, stage_channels: Sequence[int], *, key: str) -> int:
    """Returns the channels of `stage`. Raises ValueError, naming the setting `key`, where there is no such stage."""
    if not 0 <= stage < len(stage_channels):
        raise ValueError(f"{key}: {stage}; expected 0 (c2) to {len(stage_channels) - 1}")
    return stage_channels[stage]


@dataclass(frozen=True)
class HeadOutput:
    """Output of a head."""

    context: Tensor
    """`b d h w`."""
    aux_logits: dict[str, Tensor] = field(default_factory=dict)
    """Further logits `b k h w` by name, each with its own loss; in evaluation only those that the context needs."""


class ContextHead(nn.Module):
    """Module that maps stages `b c h w` to a context map `b d h w`.

    A subclass sets `Config`, takes (cfg, stage_channels, num_classes) and sets `out_channels`, d. Its file ends with
    `HEAD = THE_CLASS`.
    """

    Config: ClassVar[type[HeadConfig]]
    out_channels: int
    aux_weights: Mapping[str, float] = {}
    """Weights of the losses of `aux_logits` by name; 1 for names that are not here."""
    align_corners: bool = False
    """The segmenter sets it from `model.align_corners`."""

    def __init__(self, cfg: HeadConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.in_stages = cfg.in_stages
        self.in_channels = sum(channels_of(stage, stage_channels, key="in_stages") for stage in cfg.in_stages)
        """Channels of the map that `gather` returns."""

    def gather(self, stages: Sequence[Tensor]) -> Tensor:
        """Returns the stages of `in_stages` as one map `b c h w` of the first one's size."""
        maps = [stages[stage] for stage in self.in_stages]
        if len(maps) == 1:
            return maps[0]
        out_hw = (maps[0].shape[-2], maps[0].shape[-1])
        return torch.cat([resize(x, out_hw, align_corners=self.align_corners) for x in maps], dim=1)

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5, `b c h w` each, to the context; stages that the head does not use may be None."""
        raise NotImplementedError

    def attend(self, stages: Sequence[Tensor], pixel: tuple[int, int]) -> AttentionRows:
        """Returns the attention weights of position `pixel` (row, column); called by segnl.models.attention."""
        raise ValueError(f"{type(self).__name__} has no attention rows; da, dnl, gc, non_local and rcca have")


class ConvContextConvHeadConfig(HeadConfig, ConvContextConvConfig):
    """Settings of a head with the FCN-style layout."""


class ConvContextConvHead(ContextHead):
    """Head with the FCN-style layout (blocks/conv_context_conv.py) around a context block."""

    def __init__(
        self, cfg: ConvContextConvHeadConfig, stage_channels: Sequence[int], num_classes: int, block: nn.Module
    ) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        # Checkpoints hold the name `shell`, and initial weights are drawn from module paths, so it stays.
        self.shell = ConvContextConv(cfg, self.in_channels, block)
        self.out_channels = self.shell.out_channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5 to the context `b d h w`."""
        return HeadOutput(self.shell(self.gather(stages)))

    def attend(self, stages: Sequence[Tensor], pixel: tuple[int, int]) -> AttentionRows:
        """Returns the context block's attention weights of position `pixel`."""
        attend: Callable[[Tensor, tuple[int, int]], AttentionRows] | None = getattr(self.shell.context, "attend", None)
        if attend is None:
            return super().attend(stages, pixel)
        return attend(self.shell.before_context(self.gather(stages)), pixel)
