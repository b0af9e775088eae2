"""Interface of heads, stages to one context map, and the FCN-style layout that several of them have."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import ChannelCount, Config, SmallCount
from segnl.models.blocks.attention_rows import AttentionRows, Pixel
from segnl.models.blocks.conv import ConvNormAct, NormActConfig
from segnl.ops.resize import resize

Stage = Annotated[int, Field(ge=0, le=63)]


class HeadConfig(Config):
    """Settings of every head."""

    name: str
    in_stages: tuple[Stage, ...] = Field((3,), min_length=1, max_length=64)
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
    needs_num_classes: ClassVar[bool] = False
    """Whether the context depends on the number of classes, and not only `aux_logits`."""
    out_channels: int
    aux_weights: Mapping[str, float] = {}
    """Weights of the losses of `aux_logits` by name; 1 for names that are not here."""
    align_corners: bool = False
    """The segmenter sets it from `model.align_corners`."""
    takes_frames: ClassVar[bool] = False
    """Whether it maps stages `b*t c h w` of clips to the context `b d h w` of each clip's first frame."""
    num_frames: int = 1
    """t; the segmenter sets it from `data.frames`."""

    def __init__(self, cfg: HeadConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.in_stages = cfg.in_stages
        self.in_channels = sum(channels_of(stage, stage_channels, key="in_stages") for stage in cfg.in_stages)
        """Channels of the map that `concat_stages` returns."""

    def concat_stages(self, stages: Sequence[Tensor]) -> Tensor:
        """Returns the stages of `in_stages` as one map `b c h w` of the first one's size."""
        maps = [stages[stage] for stage in self.in_stages]
        if len(maps) == 1:
            return maps[0]
        return torch.cat([self.resize_to(x, maps[0]) for x in maps], dim=1)

    def resize_to(self, x: Tensor, like: Tensor) -> Tensor:
        """Resizes x `b c h w` to the size of the map `like`."""
        return resize(x, (like.shape[-2], like.shape[-1]), align_corners=self.align_corners)

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5, `b c h w` each, to the context; stages that the head does not use may be None."""
        raise NotImplementedError

    def query_hw(self, stages: Sequence[Tensor]) -> tuple[int, int]:
        """Returns the size of the map whose positions `attend` takes as pixels."""
        return tuple(self.concat_stages(stages).shape[-2:])  # type: ignore[return-value]

    @property
    def attends(self) -> bool:
        """Whether `attend` gives attention weights between positions."""
        return type(self).attend is not ContextHead.attend

    def attend(self, stages: Sequence[Tensor], pixels: Sequence[Pixel]) -> AttentionRows:
        """Returns the attention weights of the pixels of the head's map; called by `attention_rows`."""
        raise ValueError(
            f"{type(self).__name__} has no attention between positions; ann, da, dnl, gc, isa, non_local and rcca have"
        )


class ConvContextConvHeadConfig(HeadConfig, NormActConfig):
    """Settings of a head with the FCN-style layout; the defaults are those of CCNet and mmsegmentation."""

    channels: ChannelCount = 512
    num_convs: int = Field(2, ge=0, le=256)
    """Number of convolutions before the concatenation; the context block follows the first."""
    kernel: int = Field(3, ge=1, le=63)
    dilation: SmallCount = 1
    """Dilation of those convolutions; the one after the concatenation is not dilated."""
    concat_input: bool = True
    """Concatenates the input stage before a last convolution."""
    last_channels: ChannelCount | None = None
    """Channels after the last convolution; null: as `channels`."""


class ConvContextConv(nn.Module):
    """convs.0, the context block, convs.1 ..., then conv_cat on the concatenation of the input and the result.

    Module paths, and with them initial weights, do not depend on the context block.
    """

    def __init__(self, cfg: ConvContextConvHeadConfig, in_channels: int, context: nn.Module) -> None:
        super().__init__()
        if cfg.num_convs == 0 and in_channels != cfg.channels:
            raise ValueError(f"channels: {cfg.channels}; without convolutions expected the stage's {in_channels}")
        self.convs = nn.ModuleList(
            cfg.conv(cfg.channels if index else in_channels, cfg.channels, cfg.kernel, dilation=cfg.dilation)
            for index in range(cfg.num_convs)
        )
        self.context = context
        self.conv_cat: ConvNormAct | None = None
        self.out_channels = cfg.channels
        if cfg.concat_input:
            self.out_channels = cfg.last_channels or cfg.channels
            self.conv_cat = cfg.conv(in_channels + cfg.channels, self.out_channels, cfg.kernel)

    def before_context(self, x: Tensor) -> Tensor:
        """Maps a stage `b c h w` to the context block's input `b d h w`."""
        return self.convs[0](x) if self.convs else x

    def forward(self, x: Tensor, num_frames: int = 1) -> Tensor:
        """Maps a stage `b c h w` to `b d h w`; a stage `b*t c h w` of t frames to that of the first."""
        before = self.before_context(x)
        out = self.context(before) if num_frames == 1 else self.context(before, num_frames)
        x = x if num_frames == 1 else x[::num_frames]
        for conv in self.convs[1:]:
            out = conv(out)
        return out if self.conv_cat is None else self.conv_cat(torch.cat([x, out], dim=1))


class ConvContextConvHead(ContextHead):
    """Head with the FCN-style layout around a context block: fcn, non_local, rcca, dnl and gc."""

    def __init__(
        self, cfg: ConvContextConvHeadConfig, stage_channels: Sequence[int], num_classes: int, block: nn.Module
    ) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        # Checkpoints hold the name `shell`, and initial weights are drawn from module paths, so it stays.
        self.shell = ConvContextConv(cfg, self.in_channels, block)
        self.out_channels = self.shell.out_channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5 to the context `b d h w`."""
        return HeadOutput(self.shell(self.concat_stages(stages), self.num_frames))

    @property
    def attends(self) -> bool:
        """Whether the context block has attention weights; those across frames are not available."""
        return hasattr(self.shell.context, "attend") and self.num_frames == 1

    def attend(self, stages: Sequence[Tensor], pixels: Sequence[Pixel]) -> AttentionRows:
        """Returns the context block's attention weights of the pixels."""
        if self.num_frames > 1:
            raise ValueError(f"attention rows: not available across the {self.num_frames} frames of data.frames")
        attend: Callable[[Tensor, Sequence[Pixel]], AttentionRows] | None = getattr(self.shell.context, "attend", None)
        if attend is None:
            return super().attend(stages, pixels)
        return attend(self.shell.before_context(self.concat_stages(stages)), pixels)


@torch.no_grad()
def attention_rows(head: ContextHead, stages: Sequence[Tensor], pixels: Sequence[Pixel]) -> AttentionRows:
    """Returns the attention weights of the pixels (row, column) of the head's map for every hop.

    stages: c2..c5, `b c h w` each. RCCA and ISA also have `routing`, the rows of the product of their hops' attention
    matrices: one hop of RCCA reaches a cross, two hops the whole map.

    Raises ValueError for a head without attention, a head in training mode, no pixel or one outside the map.
    """
    if head.training:
        raise ValueError(
            f"{type(head).__name__} is in training mode, where batch norm depends on the batch; call eval()"
        )
    if not len(pixels):
        raise ValueError("pixels: none; expected at least one (row, column)")
    h, w = head.query_hw(stages)
    return head.attend(stages, [checked_pixel(pixel, (h, w), "map") for pixel in pixels])


def checked_pixel(pixel: Pixel, hw: tuple[int, ...], what: str) -> Pixel:
    """Returns (row, column) as plain integers; raises ValueError outside the `what` of size hw."""
    try:
        row, column = map(operator.index, pixel)
    except (TypeError, ValueError) as err:
        raise ValueError(f"pixel: {pixel!r}; expected (row, column), two integers") from err
    if not (0 <= row < hw[0] and 0 <= column < hw[1]):
        raise ValueError(f"pixel: {pixel}; expected (row, column) inside the {what} of {hw[0]} x {hw[1]}")
    return row, column
