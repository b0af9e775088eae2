"""DPT's decoder: residual convolution units that fuse the stages from coarse to fine.

Source: DPT, Ranftl et al. 2021, arXiv:2103.13413, section 3; the units are those of RefineNet, Lin et al. 2017,
arXiv:1611.06612. DPT takes four maps of a plain transformer to strides 4 to 32 first: here the backbone does so
(`pyramid: true` of timm's, docs/training.md).
"""

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from segnl.core.config import ChannelCount
from segnl.models.blocks.conv import ConvNormAct
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput, Stage


class DPTConfig(HeadConfig):
    """Settings of the head; `in_stages` from the finest to the coarsest."""

    name: str = "dpt"
    in_stages: tuple[Stage, ...] = Field((0, 1, 2, 3), max_length=64, min_length=1)
    channels: ChannelCount = 256
    """Channels of every level and of the result."""
    has_norm: bool = True
    """Whether the residual units have batch norm, as in DPT's models for segmentation."""


class DPTHead(ContextHead):
    """A 3x3 convolution of each stage; then, from the coarsest level on, fusion with the next finer one.

    Differs from the paper: the last fusion does not double the map's size, and each fusion resizes to the size of the
    finer stage, which need not be twice as large.
    """

    Config = DPTConfig

    def __init__(self, cfg: DPTConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        self.inputs = nn.ModuleList(
            nn.Conv2d(stage_channels[stage], cfg.channels, 3, padding=1, bias=False) for stage in cfg.in_stages
        )
        self.fusions = nn.ModuleList(
            Fusion(cfg.channels, has_norm=cfg.has_norm, is_first=stage == cfg.in_stages[-1]) for stage in cfg.in_stages
        )
        self.join = ConvNormAct(cfg.channels, cfg.channels, 3, has_norm=cfg.has_norm)
        self.out_channels = cfg.channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5 to the context `b d h w` of the finest stage's size."""
        maps = [conv(stages[stage]) for conv, stage in zip(self.inputs, self.in_stages, strict=True)]
        fused: Tensor | None = None
        for x, fusion in zip(reversed(maps), reversed(self.fusions), strict=True):
            fused = fusion(x, None if fused is None else self.resize_to(fused, x))
        return HeadOutput(self.join(fused))


class Fusion(nn.Module):
    """Adds a level, through a residual unit, to the coarser one; another unit and a 1x1 convolution follow."""

    def __init__(self, channels: int, *, has_norm: bool, is_first: bool) -> None:
        super().__init__()
        self.input_unit = None if is_first else ResidualUnit(channels, has_norm=has_norm)
        self.unit = ResidualUnit(channels, has_norm=has_norm)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, coarser: Tensor | None) -> Tensor:
        """Maps a level and the coarser one, `b d h w` each, to `b d h w`; None: there is no coarser one."""
        if self.input_unit is not None and coarser is not None:
            x = coarser + self.input_unit(x)
        return self.out(self.unit(x))


class ResidualUnit(nn.Module):
    """Twice activation, 3x3 convolution and norm; the input is added."""

    def __init__(self, channels: int, *, has_norm: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            ConvNormAct(channels, channels, 3, has_norm=has_norm, leaky_slope=1.0) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps x `b d h w` to the same shape."""
        out = x
        for conv in self.convs:
            out = conv(relu(out))
        return x + out


HEAD = DPTHead
