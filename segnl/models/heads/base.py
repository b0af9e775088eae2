"""What a head is: stages in, one context map out; the classifier, the loss and the upsampling are not its business."""

from collections.abc import Mapping, Sequence
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
    """Settings that every head has."""

    name: str
    in_stages: tuple[int, ...] = Field((3,), min_length=1)
    """Which stages go in, 0 = c2 .. 3 = c5; several are resized to the first one's size and concatenated."""


def channels_of(stage: int, stage_channels: Sequence[int], *, key: str) -> int:
    """Of the stage that the setting `key` names. Raises ValueError where the backbone has no such stage."""
    if not 0 <= stage < len(stage_channels):
        raise ValueError(f"{key}: {stage}; expected 0 (c2) to {len(stage_channels) - 1}")
    return stage_channels[stage]


@dataclass(frozen=True)
class HeadOutput:
    """context `b d h w`; aux_logits: further class scores `b k h w` by name, each with a loss of its own, in training
    always and in evaluation where the context needs them anyway."""

    context: Tensor
    aux_logits: dict[str, Tensor] = field(default_factory=dict)


class ContextHead(nn.Module):
    """Stages `b c h w` to a context map `b d h w`; a subclass's file ends with `HEAD = THE_CLASS`.

    A subclass sets `Config`, takes (cfg, stage_channels, num_classes) and sets `out_channels`, d.
    """

    Config: ClassVar[type[HeadConfig]]
    out_channels: int
    aux_weights: Mapping[str, float] = {}
    """Of the losses of `aux_logits`, by name; 1 where there is none."""
    align_corners: bool = False
    """Set by the segmenter from `model.align_corners`."""

    def __init__(self, cfg: HeadConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.in_stages = cfg.in_stages
        self.in_channels = sum(channels_of(stage, stage_channels, key="in_stages") for stage in cfg.in_stages)
        """Channels of what `gather` returns."""

    def gather(self, stages: Sequence[Tensor]) -> Tensor:
        """The stages of `in_stages` as one map `b c h w`, of the first one's size."""
        maps = [stages[stage] for stage in self.in_stages]
        if len(maps) == 1:
            return maps[0]
        out_hw = (maps[0].shape[-2], maps[0].shape[-1])
        return torch.cat([resize(each, out_hw, align_corners=self.align_corners) for each in maps], dim=1)

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """stages: c2..c5, `b c h w` each; those that the head does not use may be None."""
        raise NotImplementedError

    def attend(self, stages: Sequence[Tensor], pixel: tuple[int, int]) -> AttentionRows:
        """What the position `pixel` (row, column) of the head's map attends to; see `segnl.models.attention`."""
        raise ValueError(f"{type(self).__name__} has no rows of attention; da, dnl, gc, non_local and rcca have")


class ConvContextConvHeadConfig(HeadConfig, ConvContextConvConfig):
    """Settings of a head that is the shell with a block in its middle."""


class ConvContextConvHead(ContextHead):
    """The shell (blocks/shell.py) with a block that attends in its middle."""

    def __init__(
        self, cfg: ConvContextConvHeadConfig, stage_channels: Sequence[int], num_classes: int, block: nn.Module
    ) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        self.shell = ConvContextConv(cfg, self.in_channels, block)
        self.out_channels = self.shell.out_channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """stages: c2..c5. Returns the context `b d h w`."""
        return HeadOutput(self.shell(self.gather(stages)))

    def attend(self, stages: Sequence[Tensor], pixel: tuple[int, int]) -> AttentionRows:
        """The block's rows at one position."""
        return self.shell.attend(self.gather(stages), pixel)
