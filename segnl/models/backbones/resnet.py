"""ResNet of any depth, width and output stride, optionally with non-local blocks inside.

Sources: He et al. 2016, arXiv:1512.03385; dilation instead of strides, Chen et al. 2017, arXiv:1706.05587; deep stem
and avg_down, He et al. 2019, arXiv:1812.01187; blocks that start as the identity, Goyal et al. 2017, arXiv:1706.02677.
"""

import itertools
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from segnl.core.config import Config, JSONDict, SmallCount
from segnl.core.errors import CheckpointError, ConfigError
from segnl.models.backbones.base import Backbone, BackboneConfig, checkpointed
from segnl.models.blocks.conv import KaimingConv2d
from segnl.models.blocks.non_local import NonLocalBlock, NonLocalConfig
from segnl.models.blocks.non_local_layout import LAYERS, NonLocalLayout, layer_index, non_local_positions
from segnl.models.blocks.residual import ResidualBlock
from segnl.models.weights.pretrained import KEY, backbone_tensors, fetch, load_backbone, weights_path
from segnl.models.weights.resnet import URLS, resnet_names

DEPTHS: dict[int, tuple[str, tuple[int, int, int, int]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
_STRIDES = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1), 32: (1, 2, 2, 2)}


class StemConfig(Config):
    """Settings of the first convolutions, of stride 2, and the pooling after them."""

    kind: Literal["plain", "deep"] = "plain"
    """plain: one 7x7, as torchvision. deep: three 3x3, as mmsegmentation's v1c (64 channels) and CCNet (128)."""
    channels: Annotated[int, Field(ge=2, le=8192)] | None = None
    """Channels of the last convolution; null: 64 times width. The first two of the deep stem have half of it."""
    has_pool: bool = True
    """Max-pools after the convolutions; without it all stages have twice the resolution, c2 half of the image's."""
    ceil_mode: bool = False
    """Rounds the pooled map's size up, as CCNet does."""


class ResNetConfig(BackboneConfig):
    """Settings of a ResNet."""

    name: str = "resnet"
    depth: Literal[18, 34, 50, 101, 152] | None = 50
    blocks: tuple[SmallCount, SmallCount, SmallCount, SmallCount] | None = None
    """Numbers of blocks of the four stages, such as [1, 1, 1, 1], instead of those of `depth`."""
    block: Literal["basic", "bottleneck"] | None = None
    """Kind of the blocks where depth is null."""
    stem: StemConfig = StemConfig()
    width: float = Field(1.0, gt=0.0, le=16.0)
    """Factor on the channels of all stages."""
    output_stride: Literal[8, 16, 32] = 8
    """Output stride of c5 with the stem's pooling; half of it without."""
    contract_dilation: bool = True
    """Halves the dilation of a dilated stage's first block (mmsegmentation, torchvision); false in CCNet."""
    multi_grid: tuple[SmallCount, ...] | None = None
    """Factors on the dilation of layer4's blocks, (1, 2, 4) in DeepLabV3; repeated for more blocks."""
    dilations: dict[str, tuple[SmallCount, ...]] = Field({})
    """Dilations of a layer's blocks, such as {layer4: [1, 2, 4]}; replaces those that follow from the keys above."""
    avg_down: bool = False
    """Halves shortcuts by average pooling (ResNet-D)."""
    stride_conv: Literal[1, 2] = 2
    """Convolution of a bottleneck that has the stride: 2 (3x3), or 1 (the 1x1 before it), as in the paper."""
    zero_init_residual: bool = True
    """Starts the last batch norm of every block at 0."""
    non_local: NonLocalLayout = None
    """Blocks that a non-local block follows: {layer3: [-2]}, or "1", "5" or "10", the paper's layouts."""
    non_local_block: NonLocalConfig = NonLocalConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.depth is None and (self.blocks is None or self.block is None):
            raise ValueError("without a depth, blocks ([1, 1, 1, 1]) and block (basic or bottleneck) are needed")
        if self.depth is not None and self.block is not None:
            raise ValueError("block: follows from depth; leave it out, or set depth to null")
        for name, dilations in self.dilations.items():
            num_blocks = self.num_blocks[layer_index(name, "dilations")]
            if len(dilations) != num_blocks:
                raise ValueError(f"dilations.{name}: {len(dilations)} numbers; {name} has {num_blocks} blocks")
        self.non_local_at()
        return self

    @property
    def block_kind(self) -> str:
        """Kind of all blocks, `basic` or `bottleneck`."""
        return self.block or DEPTHS[self.depth or 0][0]

    @property
    def num_blocks(self) -> tuple[int, ...]:
        """Numbers of blocks of layer1 to layer4."""
        return self.blocks or DEPTHS[self.depth or 0][1]

    @property
    def base_channels(self) -> int:
        """Inner channels of layer1; each later layer doubles them."""
        return max(1, round(64 * self.width))

    @property
    def stem_channels(self) -> int:
        """Channels of the stem's last convolution."""
        return self.stem.channels or self.base_channels

    def non_local_at(self) -> set[tuple[int, int]]:
        """Returns (layer 0..3, block) of every non-local block. Raises ValueError for a block that does not exist."""
        is_published = self.blocks is None and self.depth is not None
        return non_local_positions(self.non_local, self.num_blocks, self.depth if is_published else None)


class StagePlan(NamedTuple):
    """Stride of a stage's first block and dilations of all its blocks."""

    stride: int
    dilations: tuple[int, ...]


def plan_stages(cfg: ResNetConfig) -> list[StagePlan]:
    """Returns strides and dilations of layer1 to layer4: a stride that the output stride excludes becomes dilation."""
    plans, dilation = [], 1
    for layer, (name, count) in enumerate(zip(LAYERS, cfg.num_blocks, strict=True)):
        stride = _STRIDES[cfg.output_stride][layer]
        dilation *= _STRIDES[32][layer] // stride
        first = dilation // 2 if cfg.contract_dilation and dilation > 1 else dilation
        dilations = (first, *[dilation] * (count - 1))
        if layer == 3 and cfg.multi_grid:
            dilations = tuple(dilation * cfg.multi_grid[block % len(cfg.multi_grid)] for block in range(count))
        plans.append(StagePlan(stride, cfg.dilations.get(name, dilations)))
    return plans


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> KaimingConv2d:
    """Builds a convolution that keeps the size but for the stride."""
    padding = kernel // 2 * dilation
    return KaimingConv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int, cfg: ResNetConfig) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    pool = [nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)] if cfg.avg_down else []
    conv = _conv(in_channels, out_channels, 1, 1 if cfg.avg_down else stride)
    return nn.Sequential(*pool, conv, nn.BatchNorm2d(out_channels))


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions; the first is dilated, as in mmsegmentation's ResNet-18 and 34."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int, cfg: ResNetConfig) -> None:
        convs = _conv(in_channels, channels, 3, stride, dilation), _conv(channels, channels, 3)
        super().__init__(convs, _shortcut(in_channels, channels, stride, cfg), zero_init=cfg.zero_init_residual)


class Bottleneck(ResidualBlock):
    """1x1, dilated 3x3, and 1x1 convolution to four times the channels."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int, cfg: ResNetConfig) -> None:
        first, second = (stride, 1) if cfg.stride_conv == 1 else (1, stride)
        out_channels = channels * self.expansion
        convs = (
            _conv(in_channels, channels, 1, first),
            _conv(channels, channels, 3, second, dilation),
            _conv(channels, out_channels, 1),
        )
        super().__init__(convs, _shortcut(in_channels, out_channels, stride, cfg), zero_init=cfg.zero_init_residual)


def build_stem(kind: str, channels: int) -> nn.Sequential:
    """Builds the convolutions of StemConfig: modules 0 (conv) and 1 (norm), in a deep stem also 3, 4 and 6, 7."""
    if kind == "plain":
        convs = [_conv(3, channels, 7, 2)]
    else:
        half = channels // 2
        convs = [_conv(3, half, 3, 2), _conv(half, half, 3), _conv(half, channels, 3)]
    layers = ([conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True)] for conv in convs)
    return nn.Sequential(*itertools.chain.from_iterable(layers))


class ResNet(Backbone):
    """Stem, pooling, and four stages whose outputs are c2..c5."""

    Config = ResNetConfig
    is_self_initialised = False
    variants: ClassVar[Mapping[str, JSONDict]] = {f"resnet{depth}": {"depth": depth} for depth in DEPTHS}

    def __init__(self, cfg: ResNetConfig) -> None:
        super().__init__()
        self.cfg = cfg
        block = BasicBlock if cfg.block_kind == "basic" else Bottleneck
        self.stem = build_stem(cfg.stem.kind, cfg.stem_channels)
        pool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=cfg.stem.ceil_mode)
        self.maxpool = pool if cfg.stem.has_pool else nn.Identity()
        channels, stage_channels, stage_strides = cfg.stem_channels, [], []
        stride = 4 if cfg.stem.has_pool else 2
        for layer, plan in enumerate(plan_stages(cfg)):
            inner = cfg.base_channels * 2**layer
            blocks = []
            for index, dilation in enumerate(plan.dilations):
                blocks.append(block(channels, inner, 1 if index else plan.stride, dilation, cfg))
                channels = inner * block.expansion
            self.add_module(LAYERS[layer], nn.Sequential(*blocks))
            stride *= plan.stride
            stage_channels.append(channels)
            stage_strides.append(stride)
        self.stage_channels, self.stage_strides = tuple(stage_channels), tuple(stage_strides)
        # Not inside the layers, so that the names of their blocks stay those of other projects' weights.
        self.non_local = nn.ModuleDict(
            {
                f"{LAYERS[layer]}_{index}": NonLocalBlock(stage_channels[layer], cfg.non_local_block)
                for layer, index in sorted(cfg.non_local_at())
            }
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps a normalised float image `b 3 H W` to c2..c5, at 1/4, 1/8, ... of its size."""
        x = self.maxpool(self.stem(image))
        stages = []
        for name in LAYERS:
            for index, block in enumerate(self.get_submodule(name).children()):
                x = checkpointed(block, x) if self.activation_checkpointing and self.training else block(x)
                if f"{name}_{index}" in self.non_local:
                    x = self.non_local[f"{name}_{index}"](x)
            stages.append(x)
        return stages

    def load_pretrained(self, weights: str) -> None:
        """Loads published weights by name, or a file of a known project; non-local blocks keep their initial values."""
        if weights in URLS or weights == "imagenet":
            fitting = published_name(self.cfg)
            if weights not in ("imagenet", fitting):
                raise ConfigError(f"{KEY}: {weights} does not fit this backbone, whose weights are {fitting}")
            path = fetch(URLS[fitting])
        else:
            path = weights_path(weights, [*URLS, "imagenet"])
        state = backbone_tensors(path)
        source_name, stem = resnet_names(state, str(path))
        if stem != self.cfg.stem.kind:
            raise CheckpointError(
                f"{path}: has a {stem} stem, model.backbone.stem.kind is {self.cfg.stem.kind}; set it to {stem}"
            )
        load_backbone(self, state, source_name, where=str(path), skip="non_local.")

    def stage_modules(self) -> list[list[nn.Module]]:
        """Returns the stem and layer1 to layer4, each with its non-local blocks."""
        inserted = [[block for at, block in self.non_local.items() if at.startswith(name)] for name in LAYERS]
        return [[self.stem], *([self.get_submodule(name), *more] for name, more in zip(LAYERS, inserted, strict=True))]


def published_name(cfg: ResNetConfig) -> str:
    """Returns the name of the published weights for these settings; raises ConfigError where there are none."""
    stem = cfg.stem
    if cfg.blocks is not None or cfg.base_channels != 64 or cfg.avg_down or cfg.depth is None:
        raise ConfigError(f"{KEY}: none are published for own blocks, another width or avg_down; set it to null")
    if cfg.stem_channels != 64:
        raise ConfigError(
            f"{KEY}: none are published for a {stem.kind} stem of {cfg.stem_channels} channels; expected 64, or a path"
        )
    name = f"resnet{cfg.depth}" + ("_v1c" if stem.kind == "deep" else "")
    if name not in URLS:
        known = ", ".join(sorted(deep for deep in URLS if deep.endswith("_v1c")))
        raise ConfigError(
            f"{KEY}: no {name}; with a deep stem there are {known}; or set model.backbone.stem.kind to plain"
        )
    return name


BACKBONE = ResNet
