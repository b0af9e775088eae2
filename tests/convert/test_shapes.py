from typing import Any

import pytest
import torch

from segnl.convert.shapes import channels_out, resnet_dict
from segnl.core.config import validate
from segnl.core.errors import CheckpointError
from segnl.models.backbones.resnet import ResNet, ResNetConfig


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
    mapping = {"name": "resnet", "width": 0.125, **settings}
    state = ResNet(validate(ResNetConfig, mapping, file="test")).state_dict()
    assert resnet_dict(state, "file") == mapping


def test_a_file_without_a_trunk_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight: missing"):
        resnet_dict({"conv1.weight": torch.zeros(1)}, "file")


def test_the_channels_of_a_missing_convolution_are_an_error() -> None:
    assert channels_out({"a": torch.zeros(5, 2)}, "a", "file") == 5
    with pytest.raises(CheckpointError, match="file: b: missing"):
        channels_out({"a": torch.zeros(5, 2)}, "b", "file")
