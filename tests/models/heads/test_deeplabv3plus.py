from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from segnl.models.blocks.conv import ConvNormAct, SeparableConvNormAct
from segnl.models.heads.deeplabv3plus import DeepLabV3PlusConfig, DeepLabV3PlusHead


def head_of(**settings: Any) -> DeepLabV3PlusHead:
    torch.manual_seed(0)
    settings = {"leaky_slope": 0.5} | settings  # nothing is cut off on the way
    cfg = DeepLabV3PlusConfig(channels=4, low_channels=3, **settings)
    head = DeepLabV3PlusHead(cfg, (5, 0, 6, 7), 3).double().eval()
    for name, tensor in head.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("var") else torch.randn_like(tensor) / 3)
    return head


def stages(b: int = 2) -> list[Any]:
    torch.manual_seed(1)
    sizes = [(5, (13, 21)), (6, (7, 11)), (7, (7, 11))]
    fine, third, last = (torch.randn(b, c, *hw, dtype=torch.float64) for c, hw in sizes)
    return [fine, None, third, last]


def pooled(head: DeepLabV3PlusHead, x: Tensor) -> Tensor:
    """The image's mean first, then a branch for each dilation."""
    mean = head.image_pool(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, *x.shape[2:])
    return head.project(torch.cat([mean, *(branch(x) for branch in head.branches)], dim=1))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("b", "last"), [(1, 3), (2, 3), (2, 2)])
@torch.no_grad()
def test_the_pyramid_is_resized_and_decoded_with_the_finer_stage(b: int, last: int, align_corners: bool) -> None:
    head, maps = head_of(in_stages=(last,)), stages(b)
    head.align_corners = align_corners
    context = head(maps).context
    resized = F.interpolate(pooled(head, maps[last]), (13, 21), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(context, head.decode(torch.cat([resized, head.low(maps[0])], dim=1)))
    assert context.shape == (b, 4, 13, 21)


@torch.no_grad()
def test_without_a_finer_stage_the_pyramid_is_decoded_at_its_own_size() -> None:
    head, maps = head_of(low_stage=None), stages()
    assert head.low is None
    context = head([None, None, None, maps[3]]).context
    torch.testing.assert_close(context, head.decode(pooled(head, maps[3])))
    assert context.shape == (2, 4, 7, 11)


def test_a_dilation_of_one_is_a_1x1_convolution_and_the_others_are_separable() -> None:
    head = head_of()
    first, *others = head.branches
    assert isinstance(first, ConvNormAct)
    assert first.conv.kernel_size == (1, 1)
    assert all(isinstance(each, SeparableConvNormAct) for each in (*others, *head.decode))
    assert [each.depthwise.conv.dilation for each in others] == [(12, 12), (24, 24), (36, 36)]
    assert [each.depthwise.conv.dilation for each in head.decode] == [(1, 1), (1, 1)]


@torch.no_grad()
def test_a_separable_branch_is_a_depthwise_then_a_pointwise_convolution() -> None:
    branch, x = head_of(dilations=(2,)).branches[0], stages()[3]
    depthwise, pointwise = branch.depthwise, branch.pointwise
    padded, weight = F.pad(x, (2, 2, 2, 2)), depthwise.conv.weight
    expected = torch.zeros_like(x)
    for channel in range(7):
        for i in range(3):
            for j in range(3):
                window = padded[:, channel, 2 * i : 2 * i + 7, 2 * j : 2 * j + 11]
                expected[:, channel] += weight[channel, 0, i, j] * window
    expected = F.leaky_relu(depthwise.norm(expected), 0.5)
    mixed = torch.einsum("dc,bchw->bdhw", pointwise.conv.weight[:, :, 0, 0], expected)
    torch.testing.assert_close(branch(x), F.leaky_relu(pointwise.norm(mixed), 0.5))


def test_norms_and_slopes_of_every_layer_are_the_configs() -> None:
    head = head_of(has_norm=False, leaky_slope=0.2)
    assert not [each for each in head.modules() if isinstance(each, nn.BatchNorm2d)]
    assert {each.leaky_slope for each in head.modules() if isinstance(each, ConvNormAct)} == {0.2}


def test_the_default_has_the_parameters_of_its_layers() -> None:
    head = DeepLabV3PlusHead(DeepLabV3PlusConfig(), (256, 512, 1024, 2048), 19)
    plain = 2048 * 512 + 2 * 512  # the image's mean, and the dilation of 1
    separable = (2048 * 9 + 2 * 2048) + (2048 * 512 + 2 * 512)
    project = 5 * 512 * 512 * 9 + 2 * 512
    low = 256 * 48 + 2 * 48
    first = (560 * 9 + 2 * 560) + (560 * 512 + 2 * 512)
    second = (512 * 9 + 2 * 512) + (512 * 512 + 2 * 512)
    assert sum(each.numel() for each in head.parameters()) == 2 * plain + 3 * separable + project + low + first + second


@pytest.mark.parametrize("wrong", [{"low_stage": 4}, {"in_stages": ()}, {"dilations": ()}, {"dilations": (0,)}])
def test_invalid_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DeepLabV3PlusConfig(**wrong)


def test_a_stage_that_the_backbone_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"in_stages: 3; expected 0 \(c2\) to 2"):
        DeepLabV3PlusHead(DeepLabV3PlusConfig(), (4, 5, 6), 3)
    with pytest.raises(ValueError, match=r"low_stage: 2; expected 0 \(c2\) to 1"):
        DeepLabV3PlusHead(DeepLabV3PlusConfig(in_stages=(1,), low_stage=2), (4, 5), 3)
