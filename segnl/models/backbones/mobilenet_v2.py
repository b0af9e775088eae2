"""MobileNetV2 of any width and output stride, without the last 1x1 convolution and the classifier.

Source: Sandler et al. 2018, arXiv:1801.04381, Table 2; as in its section 6.3, the head reads the map of 320 channels,
before that convolution. Tensors have torchvision's names.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from segnl.models.backbones.base import Backbone, BackboneConfig, checkpointed
from segnl.models.blocks.conv import KaimingConv2d
from segnl.models.weights.pretrained import backbone_tensors, fetch, load_backbone, weights_path

# Expansion, channels, number of blocks and stride of each group of blocks.
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STAGE_ENDS = (3, 6, 13, 17)
"""Blocks whose outputs are c2..c5, counted as in `features`."""
# torchvision's first weights (IMAGENET1K_V1).
URLS: Mapping[str, str] = {"imagenet": "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"}


class MobileNetV2Config(BackboneConfig):
    """Settings of a MobileNetV2."""

    name: str = "mobilenet_v2"
    width: float = Field(1.0, gt=0.0, le=16.0)
    """Factor on the channels, which are rounded to multiples of 8."""
    output_stride: Literal[8, 16, 32] = 16
    """Output stride of c5; strides beyond it become dilation of the blocks that follow."""


class ConvNormReLU6(nn.Sequential):
    """Convolution, batch norm and ReLU6."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
    ):
        padding = kernel // 2 * dilation
        conv = KaimingConv2d(in_channels, channels, kernel, stride, padding, dilation, groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(channels), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1; the input is added where the shape stays."""

    def __init__(self, in_channels: int, channels: int, expansion: int, stride: int, dilation: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [] if expansion == 1 else [ConvNormReLU6(in_channels, hidden, 1)]
        depthwise = ConvNormReLU6(hidden, hidden, 3, stride, dilation, groups=hidden)
        project = KaimingConv2d(hidden, channels, 1, bias=False)
        self.conv = nn.Sequential(*expand, depthwise, project, nn.BatchNorm2d(channels))
        self.is_residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """Maps x `b c h w` to `b d h/stride w/stride`."""
        return x + self.conv(x) if self.is_residual else self.conv(x)


class MobileNetV2(Backbone):
    """A convolution of stride 2 and 17 inverted residuals."""

    Config = MobileNetV2Config
    is_self_initialised = False

    def __init__(self, cfg: MobileNetV2Config) -> None:
        super().__init__()
        channels, total_stride, dilation = round_channels(32 * cfg.width), 2, 1
        blocks: list[nn.Module] = [ConvNormReLU6(3, channels, 3, 2)]
        stage_channels, stage_strides = [], []
        for expansion, base_channels, count, group_stride in GROUPS:
            for index in range(count):
                stride = group_stride if index == 0 and total_stride < cfg.output_stride else 1
                new_channels = round_channels(base_channels * cfg.width)
                blocks.append(InvertedResidual(channels, new_channels, expansion, stride, dilation))
                if index == 0 and stride != group_stride:
                    dilation *= group_stride  # from the next block on: this one's input is not denser than with strides
                channels, total_stride = new_channels, total_stride * stride
                if len(blocks) - 1 in STAGE_ENDS:
                    stage_channels.append(channels)
                    stage_strides.append(total_stride)
        self.features = nn.Sequential(*blocks)
        self.stage_channels, self.stage_strides = tuple(stage_channels), tuple(stage_strides)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps a normalised float image `b 3 H W` to c2..c5."""
        x, stages = image, []
        for index, block in enumerate(self.features):
            x = checkpointed(block, x) if self.activation_checkpointing and self.training else block(x)
            if index in STAGE_ENDS:
                stages.append(x)
        return stages

    def load_pretrained(self, weights: str) -> None:
        """Loads torchvision's weights (`imagenet`), or a file with its tensor names."""
        path = fetch(URLS[weights]) if weights in URLS else weights_path(weights, list(URLS))
        last = f"features.{len(self.features)}."  # the last 1x1 convolution
        state = {name: tensor for name, tensor in backbone_tensors(path).items() if not name.startswith(last)}
        load_backbone(self, state, where=str(path))

    def stage_modules(self) -> list[list[nn.Module]]:
        """Returns the first two blocks, whose map has stride 2, and the blocks of each stage."""
        blocks, ends = list(self.features), (1, *STAGE_ENDS)
        starts = (-1, *ends)
        return [blocks[start + 1 : end + 1] for start, end in zip(starts, ends, strict=False)]


def round_channels(channels: float) -> int:
    """Returns the nearest multiple of 8, at least 8 and not below 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


BACKBONE = MobileNetV2
