from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v2

from segnl.models.backbones.mobilenet_v2 import MobileNetV2, MobileNetV2Config

WEIGHTS = Path(__file__).resolve().parents[4] / "shared/data/weights/mobilenet_v2_imagenet_features.safetensors"


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory):
    """torchvision's network with statistics that are not 0 and 1, and a file of its tensors."""
    torch.manual_seed(0)
    network = mobilenet_v2(weights=None)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.pth"
    torch.save(network.state_dict(), path)
    return network.eval(), path


def backbone_of(path, output_stride):
    backbone = MobileNetV2(MobileNetV2Config(output_stride=output_stride)).eval()
    backbone.load_pretrained(str(path))
    return backbone


def stages_of(features, image):
    stages = []
    for index, block in enumerate(features[:18]):
        image = block(image)
        if index in (3, 6, 13, 17):
            stages.append(image)
    return stages


@torch.no_grad()
def test_stages_are_those_of_torchvision(torchvision_file):
    network, path = torchvision_file
    image = torch.randn(2, 3, 67, 91)
    for own, expected in zip(backbone_of(path, 32)(image), stages_of(network.features, image), strict=True):
        assert torch.equal(own, expected)


@pytest.mark.skipif(not WEIGHTS.exists(), reason="no ../shared/data/weights")
@torch.no_grad()
def test_stages_with_imagenet_weights_are_those_of_torchvision():
    from safetensors.torch import load_file

    network = mobilenet_v2(weights=None).eval()
    network.load_state_dict(load_file(WEIGHTS), strict=False)
    image = torch.randn(1, 3, 97, 65)
    for own, expected in zip(backbone_of(WEIGHTS, 32)(image), stages_of(network.features, image), strict=True):
        assert torch.equal(own, expected)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_channels_and_strides_are_those_of_the_maps(output_stride):
    backbone = MobileNetV2(MobileNetV2Config(output_stride=output_stride))
    stages = backbone(torch.randn(1, 3, 64, 96))
    assert tuple(stage.shape[1] for stage in stages) == backbone.stage_channels == (24, 32, 96, 320)
    assert tuple(64 // stage.shape[2] for stage in stages) == backbone.stage_strides
    assert backbone.stage_strides[-1] == output_stride


@pytest.mark.parametrize("output_stride", [8, 16])
@torch.no_grad()
def test_dilation_computes_the_same_values_at_more_positions(torchvision_file, output_stride):
    _, path = torchvision_file
    image = torch.randn(1, 3, 67, 91)
    coarse, fine = backbone_of(path, 32)(image)[-1], backbone_of(path, output_stride)(image)[-1]
    step = 32 // output_stride
    torch.testing.assert_close(fine[..., ::step, ::step], coarse, rtol=1e-4, atol=1e-5)  # other convolution kernels


def test_stage_modules_hold_every_parameter_once():
    backbone = MobileNetV2(MobileNetV2Config(width=0.25))
    parameters = [p for modules in backbone.stage_modules() for module in modules for p in module.parameters()]
    assert len(backbone.stage_modules()) == 5
    assert {id(p) for p in parameters} == {id(p) for p in backbone.parameters()}
    assert len(parameters) == len(set(map(id, parameters)))
