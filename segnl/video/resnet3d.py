"""C2D and I3D ResNets: image ResNets whose kernels are inflated over time, optionally with non-local blocks inside.

Sources: Non-local Neural Networks, Wang et al. 2018, arXiv:1711.07971, section 4.1; inflation, Carreira and Zisserman
2017, arXiv:1705.07750. Poolings and the places of inflated kernels follow the code published with the former
(docs/adr/0014-published-code-before-paper.md).
"""

from collections.abc import Callable, Mapping
from typing import Literal, Self

from pydantic import model_validator
from torch import Tensor, nn

from segnl.core.config import ChannelCount, Config, SmallCount
from segnl.models.backbones.resnet import DEPTHS
from segnl.models.blocks.conv import KaimingConv3d
from segnl.models.blocks.non_local import NonLocalBlock, NonLocalConfig
from segnl.models.blocks.non_local_layout import LAYERS, NonLocalLayout, non_local_positions
from segnl.models.blocks.residual import ResidualBlock

ThreeSizes = tuple[SmallCount, SmallCount, SmallCount]
FourCounts = tuple[SmallCount, SmallCount, SmallCount, SmallCount]
Sizes = tuple[int, int, int]
Inflation = Literal["mean", "centre"]


class ResNet3dConfig(Config):
    """Settings of a ResNet over clips; the defaults are I3D's with kernels of 3x1x1. Sizes are time, rows, columns."""

    depth: Literal[18, 34, 50, 101, 152] = 50
    blocks: FourCounts | None = None
    """Numbers of blocks of the four layers instead of those of `depth`, which then sets the kind of block only."""
    in_channels: ChannelCount = 3
    base_channels: ChannelCount = 64
    """Channels of the stem and inner channels of layer1; each later layer doubles them."""
    stem_kernel: ThreeSizes = (5, 7, 7)
    stem_strides: ThreeSizes = (2, 2, 2)
    has_pool: bool = True
    """Max-pools after the stem, over 1 x 3 x 3."""
    pool_strides: ThreeSizes = (2, 2, 2)
    is_pool_padded: bool = True
    has_time_pool: bool = True
    """Halves the number of frames after layer1, by the maximum of two."""
    inflated: Literal["published", "none"] | tuple[tuple[bool, ...], ...] = "published"
    """Blocks of each layer with a kernel over time. published: all of layer1, even ones of layer2 and layer3, odd ones
    of layer4; none: C2D."""
    inflate_style: Literal["3x1x1", "3x3x3"] = "3x1x1"
    """Convolution of a bottleneck that is inflated: the first 1x1, or the 3x3. Basic blocks have 3x3x3 always."""
    strides: FourCounts = (1, 2, 2, 2)
    """Of the layers, in rows and columns."""
    time_strides: FourCounts = (1, 1, 1, 1)
    dilations: FourCounts = (1, 1, 1, 1)
    """Of the layers, in rows and columns."""
    stride_conv: Literal[1, 2] = 2
    """Convolution of a bottleneck that has the stride."""
    zero_init_residual: bool = True
    """Starts the last batch norm of every residual block at 0."""
    non_local: NonLocalLayout = None
    """Blocks that a non-local block follows: {layer3: [-2]}, or "1", "5" or "10", the paper's layouts."""
    non_local_block: NonLocalConfig = NonLocalConfig(subsample=True)
    has_non_local_norm: bool = True
    """Ends the non-local blocks by a batch norm; without it, by a bias."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(size % 2 == 0 for size in self.stem_kernel):
            raise ValueError(f"stem_kernel: {self.stem_kernel}; expected odd numbers")
        if not isinstance(self.inflated, str) and [len(layer) for layer in self.inflated] != list(self.num_blocks):
            raise ValueError(f"inflated: expected a value for each block, {self.num_blocks} of the layers")
        self.non_local_at()
        return self

    @property
    def num_blocks(self) -> tuple[int, int, int, int]:
        """Numbers of blocks of layer1 to layer4."""
        return self.blocks or DEPTHS[self.depth][1]

    @property
    def expansion(self) -> int:
        """Channels of a block's result over its inner ones: 1 for basic blocks, 4 for bottlenecks."""
        return 1 if DEPTHS[self.depth][0] == "basic" else 4

    def inflated_blocks(self, layer: int) -> tuple[bool, ...]:
        """Returns which blocks of layer 0..3 have a kernel over time."""
        blocks = range(self.num_blocks[layer])
        if self.inflated == "published":
            return tuple(layer == 0 or block % 2 == (layer == 3) for block in blocks)
        return tuple(False for _ in blocks) if self.inflated == "none" else self.inflated[layer]

    def non_local_at(self) -> set[tuple[int, int]]:
        """Returns (layer 0..3, block) of every non-local block. Raises ValueError for a block that does not exist."""
        return non_local_positions(self.non_local, self.num_blocks, self.depth if self.blocks is None else None)


def _conv(
    in_channels: int, out_channels: int, kernel: Sizes, strides: Sizes = (1, 1, 1), dilation: int = 1
) -> KaimingConv3d:
    """Builds a convolution that keeps the size but for strides; dilation: in rows and columns."""
    dilations = (1, dilation, dilation)
    padding = (kernel[0] // 2, kernel[1] // 2 * dilation, kernel[2] // 2 * dilation)
    return KaimingConv3d(in_channels, out_channels, kernel, strides, padding, dilations, bias=False)


def _block(
    in_channels: int, out_channels: int, strides: Sizes, dilation: int, cfg: ResNet3dConfig, *, is_inflated: bool
) -> ResidualBlock:
    """Builds a basic block or a bottleneck, as `cfg.depth` has them; inflated: also over three frames."""
    if cfg.expansion == 1:
        kernel = (3 if is_inflated else 1, 3, 3)
        convs = [_conv(in_channels, out_channels, kernel, strides, dilation), _conv(out_channels, out_channels, kernel)]
    else:
        first, second = (strides, (1, 1, 1)) if cfg.stride_conv == 1 else ((1, 1, 1), strides)
        frames = (3, 1) if cfg.inflate_style == "3x1x1" else (1, 3)
        frames = frames if is_inflated else (1, 1)
        inner = out_channels // cfg.expansion
        convs = [
            _conv(in_channels, inner, (frames[0], 1, 1), first),
            _conv(inner, inner, (frames[1], 3, 3), second, dilation),
            _conv(inner, out_channels, (1, 1, 1)),
        ]
    shortcut = None
    if max(strides) > 1 or in_channels != out_channels:
        conv = _conv(in_channels, out_channels, (1, 1, 1), strides)
        shortcut = nn.Sequential(conv, nn.BatchNorm3d(out_channels))
    return ResidualBlock(convs, shortcut, zero_init=cfg.zero_init_residual)


class ResNet3d(nn.Module):
    """Stem, pooling and four layers of residual blocks; modules are named as in the image ResNet."""

    def __init__(self, cfg: ResNet3dConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.stem = nn.Sequential(
            _conv(cfg.in_channels, cfg.base_channels, cfg.stem_kernel, cfg.stem_strides),
            nn.BatchNorm3d(cfg.base_channels),
            nn.ReLU(inplace=True),
        )
        padding = (0, 1, 1) if cfg.is_pool_padded else 0
        self.pool = nn.MaxPool3d((1, 3, 3), cfg.pool_strides, padding) if cfg.has_pool else nn.Identity()
        self.time_pool = nn.MaxPool3d((2, 1, 1), (2, 1, 1)) if cfg.has_time_pool else nn.Identity()
        channels, layer_channels = cfg.base_channels, []
        for layer, name in enumerate(LAYERS):
            out_channels, blocks = cfg.base_channels * 2**layer * cfg.expansion, []
            for index, is_inflated in enumerate(cfg.inflated_blocks(layer)):
                stride, time_stride = (1, 1) if index else (cfg.strides[layer], cfg.time_strides[layer])
                strides = (time_stride, stride, stride)
                dilation = cfg.dilations[layer]
                blocks.append(_block(channels, out_channels, strides, dilation, cfg, is_inflated=is_inflated))
                channels = out_channels
            self.add_module(name, nn.Sequential(*blocks))
            layer_channels.append(channels)
        self.out_channels = channels
        # Not inside the layers, so that the names of their blocks stay those of image ResNets.
        self.non_local = nn.ModuleDict(
            {
                f"{LAYERS[layer]}_{index}": NonLocalBlock(
                    layer_channels[layer], cfg.non_local_block, dims=3, has_norm=cfg.has_non_local_norm
                )
                for layer, index in sorted(cfg.non_local_at())
            }
        )

    def forward(self, clip: Tensor) -> Tensor:
        """Maps a normalised float clip `b c t H W` to features `b d t h w`."""
        x = self.pool(self.stem(clip))
        for name in LAYERS:
            for index, block in enumerate(self.get_submodule(name).children()):
                x = block(x)
                if f"{name}_{index}" in self.non_local:
                    x = self.non_local[f"{name}_{index}"](x)
            if name == LAYERS[0]:
                x = self.time_pool(x)
        return x


def inflate(
    state: Mapping[str, Tensor], backbone: nn.Module, source_name: Callable[[str], str], how: Inflation
) -> dict[str, Tensor]:
    """Returns an image ResNet's tensors with the kernels' time axes of `backbone`.

    source_name: our names to those in `state`. how: mean repeats a kernel over the t frames and divides it by t, so
    that a clip of equal frames gives the image's features; centre sets it at the middle frame and 0 elsewhere.
    """
    inflated = dict(state)
    for name, ours in backbone.state_dict().items():
        theirs = state.get(source_name(name))
        if theirs is None or theirs.dim() != 4 or ours.dim() != 5:
            continue
        frames = ours.shape[2]
        kernel = theirs[:, :, None].expand(-1, -1, frames, -1, -1) / frames
        if how == "centre":
            kernel = kernel.new_zeros(kernel.shape)
            kernel[:, :, frames // 2] = theirs
        inflated[source_name(name)] = kernel
    return inflated
