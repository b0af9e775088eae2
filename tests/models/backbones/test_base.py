import pytest
import torch

from segnl.models.backbones.base import Backbone, BackboneConfig


def test_a_backbone_must_say_how_it_runs() -> None:
    with pytest.raises(NotImplementedError):
        Backbone()(torch.zeros(1, 3, 4, 4))


def test_weights_are_random_unless_named() -> None:
    assert BackboneConfig(name="any").weights is None
