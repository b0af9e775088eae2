"""The smallest backbone."""

import pytest
import torch

from segnl.models.backbones.strided_convs import StridedConvs, StridedConvsConfig


@pytest.mark.parametrize(
    ("num_convs", "strides"), [(1, (2, 2, 2, 2)), (2, (2, 2, 2, 4)), (4, (2, 4, 8, 16)), (5, (4, 8, 16, 32))]
)
def test_stages_have_the_strides_that_they_claim(num_convs: int, strides: tuple[int, ...]) -> None:
    backbone = StridedConvs(StridedConvsConfig(channels=5, num_convs=num_convs)).eval()
    assert backbone.stage_strides == strides
    for stage, stride, channels in zip(
        backbone(torch.rand(1, 3, 96, 160)), strides, backbone.stage_channels, strict=True
    ):
        assert stage.shape == (1, channels, 96 // stride, 160 // stride)
