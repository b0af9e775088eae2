"""The residual blocks and the two stems of ResNet.

Source: He et al. 2016, arXiv:1512.03385; the deep stem and avg_down: He et al. 2019, arXiv:1812.01187.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from segnl.models.blocks.conv import HeConv2d, ZeroBatchNorm2d


class BlockOptions(NamedTuple):
    """Options shared by all blocks of a backbone."""

    zero_last_norm: bool = True
    """Starts every block as the identity (Goyal et al. 2017, arXiv:1706.02677)."""
    avg_down: bool = False
    """Halves the shortcut by average pooling before its convolution instead of the convolution's stride."""
    stride_conv: int = 2
    """Number of the bottleneck's convolution that has the stride: 2 (3x3) or 1 (the 1x1 before it)."""


def _last_norm(channels: int, options: BlockOptions) -> nn.BatchNorm2d:
    return ZeroBatchNorm2d(channels) if options.zero_last_norm else nn.BatchNorm2d(channels)


def _shortcut(in_channels: int, out_channels: int, stride: int, options: BlockOptions) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    pool = [nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)] if options.avg_down else []
    conv_stride = 1 if options.avg_down else stride
    conv = HeConv2d(in_channels, out_channels, 1, stride=conv_stride, bias=False)
    return nn.Sequential(*pool, conv, nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the first is dilated, as in mmsegmentation's ResNet-18 and 34."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int, options: BlockOptions) -> None:
        super().__init__()
        self.conv1 = HeConv2d(in_channels, channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = HeConv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = _last_norm(channels, options)
        self.downsample = _shortcut(in_channels, channels, stride, options)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x `b c h w` to `b d h/stride w/stride`."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Bottleneck(nn.Module):
    """1x1, dilated 3x3, and 1x1 convolution to four times the channels."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int, options: BlockOptions) -> None:
        super().__init__()
        first, second = (stride, 1) if options.stride_conv == 1 else (1, stride)
        self.conv1 = HeConv2d(in_channels, channels, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = HeConv2d(channels, channels, 3, stride=second, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = HeConv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = _last_norm(channels * self.expansion, options)
        self.downsample = _shortcut(in_channels, channels * self.expansion, stride, options)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x `b c h w` to `b d h/stride w/stride`."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)


def plain_stem(channels: int) -> nn.Sequential:
    """Builds a 7x7 convolution of stride 2: modules 0 (conv) and 1 (norm)."""
    conv = HeConv2d(3, channels, 7, stride=2, padding=3, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def deep_stem(channels: int) -> nn.Sequential:
    """Builds three 3x3 convolutions, the first of stride 2, two with half the channels: modules 0, 1; 3, 4; 6, 7."""
    layers: list[nn.Module] = []
    for in_channels, out_channels, stride in (
        (3, channels // 2, 2),
        (channels // 2,) * 2 + (1,),
        (channels // 2, channels, 1),
    ):
        conv = HeConv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
