import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segnl.core.config import validate
from segnl.core.errors import ConfigError
from segnl.models.backbones.resnet import ResNet, ResNetConfig, plan_stages
from segnl.models.initialisation import initialise
from segnl.models.segmenter import Segmenter
from segnl.runs.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[3]


def config(**settings: Any) -> ResNetConfig:
    return validate(ResNetConfig, {"name": "resnet", "width": 0.0625, **settings}, file="test", at="model.backbone")


@pytest.mark.parametrize(("stride", "sizes"), [(8, (15, 8, 8, 8)), (16, (15, 8, 4, 4)), (32, (15, 8, 4, 2))])
@pytest.mark.parametrize("depth", [18, 50])
def test_stages_have_the_size_of_the_output_stride(stride: int, sizes: tuple[int, ...], depth: int) -> None:
    backbone = ResNet(config(depth=depth, output_stride=stride)).eval()
    stages = backbone(torch.randn(1, 3, 57, 57))
    assert tuple(stage.shape[2] for stage in stages) == sizes
    assert tuple(stage.shape[1] for stage in stages) == backbone.stage_channels


@pytest.mark.parametrize(
    ("depth", "blocks", "channels"),
    [
        (18, (2, 2, 2, 2), (64, 128, 256, 512)),
        (34, (3, 4, 6, 3), (64, 128, 256, 512)),
        (50, (3, 4, 6, 3), (256, 512, 1024, 2048)),
        (101, (3, 4, 23, 3), (256, 512, 1024, 2048)),
        (152, (3, 8, 36, 3), (256, 512, 1024, 2048)),
    ],
)
def test_depths_have_the_published_blocks_and_channels(
    depth: int, blocks: tuple[int, ...], channels: tuple[int, ...]
) -> None:
    backbone = ResNet(config(depth=depth))
    assert tuple(len(getattr(backbone, f"layer{layer}")) for layer in (1, 2, 3, 4)) == blocks
    assert tuple(16 * each for each in backbone.stage_channels) == channels


def test_resnet50_has_as_many_parameters_as_torchvisions_without_its_classifier() -> None:
    count = sum(parameter.numel() for parameter in ResNet(config(width=1.0)).parameters())
    assert count == 25_557_032 - 2048 * 1000 - 1000


@pytest.mark.parametrize(
    ("settings", "layer3", "layer4"),
    [
        ({}, (1, 2, 2, 2, 2, 2), (2, 4, 4)),
        ({"contract_dilation": False}, (2,) * 6, (4, 4, 4)),
        ({"output_stride": 16}, (1,) * 6, (1, 2, 2)),
        ({"output_stride": 32}, (1,) * 6, (1, 1, 1)),
        ({"output_stride": 16, "multi_grid": [1, 2, 4]}, (1,) * 6, (2, 4, 8)),
        ({"contract_dilation": False, "multi_grid": [1, 1, 1]}, (2,) * 6, (4, 4, 4)),
        ({"multi_grid": [1, 2]}, (1, 2, 2, 2, 2, 2), (4, 8, 4)),
        ({"dilations": {"layer4": [1, 2, 4]}}, (1, 2, 2, 2, 2, 2), (1, 2, 4)),
    ],
)
def test_dilations_follow_the_recipe(
    settings: dict[str, Any], layer3: tuple[int, ...], layer4: tuple[int, ...]
) -> None:
    cfg = config(**settings)
    assert [plan.dilations for plan in plan_stages(cfg)[2:]] == [layer3, layer4]
    backbone = ResNet(cfg)
    assert tuple(block.conv2.dilation[0] for block in backbone.layer4) == layer4


def test_explicit_blocks_make_a_shallow_backbone() -> None:
    backbone = ResNet(config(depth=None, block="basic", blocks=[1, 1, 1, 1]))
    assert [len(getattr(backbone, f"layer{layer}")) for layer in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert backbone.stage_channels == (4, 8, 16, 32)
    bottlenecks = ResNet(config(depth=50, blocks=[1, 1, 1, 1]))
    assert bottlenecks.stage_channels == (16, 32, 64, 128)


def test_ceil_mode_keeps_the_last_column_as_ccnet_does() -> None:
    image = torch.randn(1, 3, 64, 64)
    assert ResNet(config(depth=18)).eval()(image)[0].shape[2] == 16
    assert ResNet(config(depth=18, stem={"ceil_mode": True})).eval()(image)[0].shape[2] == 17


def test_without_the_stems_pooling_all_stages_have_twice_the_resolution() -> None:
    stages = ResNet(config(depth=18, output_stride=32, stem={"has_pool": False})).eval()(torch.randn(1, 3, 57, 49))
    assert [tuple(stage.shape[2:]) for stage in stages] == [(29, 25), (15, 13), (8, 7), (4, 4)]


def test_the_stems_channels_do_not_scale_with_width() -> None:
    deep = ResNet(config(depth=18, stem={"kind": "deep", "channels": 128}))
    convs = [layer for layer in deep.stem if isinstance(layer, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [64, 64, 128]
    assert ResNet(config(depth=18)).stem[0].out_channels == 4


@pytest.mark.parametrize(
    ("depth", "layout", "expected"),
    [
        (50, {"layer3": [-2]}, {"layer3_4"}),
        (50, "5", {"layer2_1", "layer2_3", "layer3_1", "layer3_3", "layer3_5"}),
        (101, 5, {"layer2_1", "layer2_3", "layer3_6", "layer3_13", "layer3_20"}),
        (50, "10", {f"layer2_{i}" for i in range(4)} | {f"layer3_{i}" for i in range(6)}),
    ],
)
def test_non_local_blocks_have_the_papers_positions(depth: int, layout: Any, expected: set[str]) -> None:
    assert set(ResNet(config(depth=depth, non_local=layout)).non_local) == expected


def test_a_non_local_block_acts_between_two_blocks_and_starts_as_identity() -> None:
    image = torch.randn(1, 3, 33, 41)
    plain, other = ResNet(config(depth=18)).eval(), ResNet(config(depth=18, non_local={"layer3": [-2]})).eval()
    initialise(plain, 0)
    initialise(other, 0)
    assert all(torch.equal(a, b) for a, b in zip(plain(image), other(image), strict=True))
    nn.init.ones_(other.non_local["layer3_0"].norm.weight)
    same = [torch.equal(a, b) for a, b in zip(plain(image), other(image), strict=True)]
    assert same == [True, True, False, False]


def seen_pixels(network: nn.Module, channel_map: Callable[[torch.Tensor], torch.Tensor]) -> tuple[int, int]:
    """Rows and columns of the image that the middle position's output depends on, by its gradient.

    All weights are made positive, so that no two ways from a pixel to the output cancel and no ReLU is closed.
    """
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.01)
    image = torch.ones(1, 3, 401, 401, dtype=torch.float64, requires_grad=True)
    output = channel_map(image)[0].sum(0)  # h w
    (grad,) = torch.autograd.grad(output[output.shape[0] // 2, output.shape[1] // 2], image)
    rows, columns = grad[0].abs().sum(0).nonzero().unbind(1)
    return int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fcn", r"sees (\d+)x\1 pixels, with the three convolutions of the fcn head (\d+)x\2"),
        ("long_fcn", r"sees (\d+)x\1 pixels of a street of 128x256; the fcn head (does not enlarge that)"),
    ],
)
def test_the_streets_backbone_has_the_documented_receptive_field(name: str, said: str) -> None:
    found = re.search(said, " ".join((ROOT / "docs" / "streets.md").read_text().split()))
    assert found is not None
    recipe = load_recipe(ROOT / "configs" / "streets" / f"{name}.yaml")
    model = Segmenter(recipe.model, 19).double().eval()
    for module in model.modules():
        if isinstance(module, nn.MaxPool2d):  # all of its window counts, where the maximum would choose one pixel
            module.forward = partial(nn.functional.avg_pool2d, kernel_size=3, stride=2, padding=1)
    backbone = seen_pixels(model, lambda image: model.backbone(image)[3])
    whole = seen_pixels(model, lambda image: model(image).main)
    assert backbone == (int(found[1]), int(found[1]))
    assert whole == (backbone if found[2] == "does not enlarge that" else (int(found[2]), int(found[2])))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": None}, "blocks"),
        ({"depth": 18, "block": "basic"}, "follows from depth"),
        ({"depth": 20}, "model.backbone.depth: holds 20"),
        ({"output_stride": 4}, "model.backbone.output_stride: holds 4"),
        ({"dilations": {"layer4": [1, 2]}}, "layer4 has 3 blocks"),
        ({"dilations": {"layer5": [1]}}, "dilations.layer5: no such layer; known: layer1"),
        ({"non_local": {"layer3": [6]}}, "layer3 has 6, 0 to 5 or -6 to -1"),
        (
            {"non_local": "7"},
            "known: '1' at depth 50, '1' at depth 101, '5' at depth 50, '5' at depth 101, '10' at depth 50",
        ),
        ({"depth": 18, "non_local": "5"}, "no layout '5' for this network"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
