import pytest
import torch

from segnl.models.backbones.base import Backbone, BackboneConfig


def test_a_backbone_must_define_forward() -> None:
    with pytest.raises(NotImplementedError):
        Backbone()(torch.zeros(1, 3, 4, 4))


def test_weights_are_random_unless_named() -> None:
    assert BackboneConfig(name="any").weights is None
