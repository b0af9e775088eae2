from typing import Any

import pytest
import torch
from torch import nn

from segnl.convert.imported import ImportedModel
from segnl.convert.torchvision import from_torchvision
from segnl.core.errors import CheckpointError


def peer(name: str, *, has_aux: bool) -> Any:
    """A random network of torchvision whose batch norms are away from their initial statistics."""
    from torchvision.models import segmentation

    torch.manual_seed(0)
    model = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=5, aux_loss=has_aux)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


@pytest.mark.parametrize(("name", "has_aux"), [("deeplabv3_resnet50", True), ("deeplabv3_resnet101", False)])
@torch.no_grad()
def test_torchvisions_deeplab_gives_the_same_logits(name: str, has_aux: bool) -> None:
    theirs = peer(name, has_aux=has_aux)
    ours = from_torchvision(theirs.state_dict())
    image = torch.randn(1, 3, 65, 49)
    expected = theirs(image)["out"]
    assert (ours(image) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (ours.segmenter.auxiliary is not None) is has_aux
    assert ours.model["align_corners"] is False
    assert ours.model["input"]["order"] == "rgb"


def test_files_of_something_else_are_refused() -> None:
    message = r"classifier\.0\.convs\.0\.0\.weight: missing; known models: deeplabv3_resnet50, deeplabv3_resnet101"
    with pytest.raises(CheckpointError, match=message):
        from_torchvision({"conv1.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=message):
        from_torchvision(peer("fcn_resnet50", has_aux=False).state_dict())


@pytest.mark.parametrize(
    ("name", "weight", "message"),
    [
        ("classifier.4.weight", torch.zeros(1).expand(10**6, 256, 1, 1), "each value stands for several places"),
        ("classifier.4.weight", torch.zeros(10**6, 0, 1, 1), r"classifier\.4\.weight \(1000000, 0, 1, 1\) instead of"),
        ("classifier.4.weight", torch.zeros(()), r"classifier\.4\.weight: shape \(\); expected a convolution's"),
        ("classifier.0.project.0.weight", torch.zeros(256), r"project\.0\.weight: shape \(256,\); expected a conv"),
    ],
)
def test_a_small_file_of_a_large_shape_builds_no_network(
    name: str, weight: torch.Tensor, message: str, monkeypatch: Any
) -> None:
    def built(*arguments: Any) -> ImportedModel:
        assert torch.get_default_device().type == "meta"
        return ImportedModel(*arguments)

    monkeypatch.setattr("segnl.convert.torchvision.ImportedModel", built)
    state = peer("deeplabv3_resnet50", has_aux=False).state_dict() | {name: weight}
    with pytest.raises(CheckpointError, match=message):
        from_torchvision(state)


def test_a_block_whose_number_has_5000_digits_is_one_line() -> None:
    state = peer("deeplabv3_resnet50", has_aux=False).state_dict()
    state[f"backbone.layer1.{'9' * 5000}.conv1.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="the tensors do not fit the model"):
        from_torchvision(state)
