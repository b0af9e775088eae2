from typing import Any

import pytest
import torch

from segnl.convert.imported import ImportedHead, ImportedModel, out_channels, resnet_section
from segnl.core.config import validate
from segnl.core.errors import CheckpointError
from segnl.models.backbones.resnet import ResNet, ResNetConfig
from segnl.ops.resize import resize


@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 18},
        {"depth": 34},
        {"depth": 101},
        {"depth": None, "block": "bottleneck", "blocks": [1, 2, 1, 1]},
        {"depth": None, "block": "basic", "blocks": [1, 1, 1, 1]},
    ],
)
def test_depth_blocks_and_width_are_read_off_the_weights(settings: dict[str, Any]) -> None:
    section = {"name": "resnet", "width": 0.125, **settings}
    state = ResNet(validate(ResNetConfig, section, file="test")).state_dict()
    assert resnet_section(state, "file") == section


def test_a_file_without_a_backbone_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight: missing"):
        resnet_section({"conv1.weight": torch.zeros(1)}, "file")


def test_the_channels_of_a_missing_convolution_are_an_error() -> None:
    assert out_channels({"a": torch.zeros(5, 2)}, "a", "file") == 5
    with pytest.raises(CheckpointError, match="file: b: missing"):
        out_channels({"a": torch.zeros(5, 2)}, "b", "file")


SECTION = {"backbone": {"name": "resnet", "depth": 18, "width": 0.0625}, "head": {"name": "fcn", "channels": 4}}


def test_an_imported_model_gives_logits_at_the_images_size() -> None:
    model = ImportedModel({**SECTION, "align_corners": True}, 3, "test").eval()
    image = torch.randn(1, 3, 41, 57)
    expected = resize(model.segmenter(image).main, (41, 57), align_corners=True)
    torch.testing.assert_close(model(image), expected)


def test_an_imported_head_takes_stages() -> None:
    section = {"name": "fcn", "channels": 4}
    model = ImportedHead(section, (0, 0, 0, 6), 3, "test", batch_norm={"eps": 0.5}, align_corners=True).eval()
    assert model([None, None, None, torch.randn(2, 6, 7, 11)]).shape == (2, 3, 7, 11)
    assert model.head.shell.convs[0].norm.eps == 0.5
    assert model.head.align_corners
