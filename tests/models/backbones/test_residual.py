import pytest
import torch
from torch import nn

from segnl.models.backbones.resnet import BasicBlock, Bottleneck, ResNetConfig, build_stem


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
@pytest.mark.parametrize(("stride", "dilation", "h", "w"), [(1, 1, 7, 11), (2, 1, 4, 6), (1, 4, 7, 11), (2, 2, 4, 6)])
def test_a_block_divides_the_size_by_its_stride_whatever_its_dilation(
    kind: type[BasicBlock | Bottleneck], stride: int, dilation: int, h: int, w: int
) -> None:
    block = kind(6, 4, stride, dilation, ResNetConfig())
    assert block(torch.randn(2, 6, 7, 11)).shape == (2, 4 * kind.expansion, h, w)


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_a_new_block_is_the_relu_of_its_input(kind: type[BasicBlock | Bottleneck]) -> None:
    channels = 4 * kind.expansion
    x = torch.randn(2, channels, 5, 7)
    assert torch.equal(kind(channels, 4, 1, 1, ResNetConfig())(x), x.relu())
    assert not torch.equal(kind(channels, 4, 1, 1, ResNetConfig(zero_init_residual=False))(x), x.relu())


def test_a_basic_block_dilates_its_first_convolution_only() -> None:
    block = BasicBlock(4, 4, 1, 4, ResNetConfig())
    assert (block.conv1.dilation, block.conv2.dilation) == ((4, 4), (1, 1))


def test_a_bottleneck_strides_in_its_configured_convolution() -> None:
    assert Bottleneck(4, 4, 2, 1, ResNetConfig()).conv2.stride == (2, 2)
    early = Bottleneck(4, 4, 2, 1, ResNetConfig(stride_conv=1))
    assert (early.conv1.stride, early.conv2.stride) == ((2, 2), (1, 1))


def test_a_pooling_shortcut_covers_odd_sizes() -> None:
    block = Bottleneck(6, 4, 2, 1, ResNetConfig(avg_down=True))
    assert isinstance(block.downsample[0], nn.AvgPool2d)
    assert block(torch.randn(1, 6, 7, 11)).shape == (1, 16, 4, 6)


def test_stems_halve_and_have_the_published_channels() -> None:
    assert build_stem("plain", 64)(torch.randn(1, 3, 33, 17)).shape == (1, 64, 17, 9)
    channels = [layer.out_channels for layer in build_stem("deep", 128) if isinstance(layer, nn.Conv2d)]
    assert channels == [64, 64, 128]
