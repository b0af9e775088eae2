from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from segnl.models.blocks.auxiliary import AuxConfig, AuxiliaryHead


def awake_head(**settings: Any) -> AuxiliaryHead:
    torch.manual_seed(0)
    head = AuxiliaryHead(AuxConfig(channels=4, **settings), 3, 5).double().eval()
    for name, tensor in head.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("var") else torch.randn_like(tensor))
    return head


def by_loops(head: AuxiliaryHead, stage: Tensor, slope: float) -> Tensor:
    """Convolution, norm, activation and classifier, one position after another."""
    (b, _, h, w), conv, norm = stage.shape, head.conv.conv, head.conv.norm
    logits = torch.zeros(b, 5, h, w, dtype=torch.float64)
    for row in range(h):
        for column in range(w):
            total = torch.zeros(b, 4, dtype=torch.float64) if conv.bias is None else conv.bias.expand(b, -1)
            for i in range(max(0, row - 1), min(h, row + 2)):
                for j in range(max(0, column - 1), min(w, column + 2)):
                    total = total + stage[:, :, i, j] @ conv.weight[:, :, i - row + 1, j - column + 1].T
            normed = (total - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
            active = torch.where(normed > 0, normed, slope * normed)
            logits[:, :, row, column] = active @ head.classifier.weight[:, :, 0, 0].T + head.classifier.bias
    return logits


@pytest.mark.parametrize(("has_conv_bias", "slope"), [(False, 0.0), (True, 0.01)])
@pytest.mark.parametrize("b", [1, 2])
@torch.no_grad()
def test_logits_are_those_of_a_loop_over_positions(b: int, has_conv_bias: bool, slope: float) -> None:
    head = awake_head(has_conv_bias=has_conv_bias, leaky_slope=slope)
    stage = torch.randn(b, 3, 7, 11, dtype=torch.float64)
    torch.testing.assert_close(head(stage), by_loops(head, stage, slope))


def test_the_convolution_has_a_bias_only_if_asked() -> None:
    assert awake_head().conv.conv.bias is None
    assert awake_head(has_conv_bias=True).conv.conv.bias is not None


@torch.no_grad()
def test_dropout_drops_whole_channels_in_training_only() -> None:
    head, seen = awake_head(dropout=0.5), []
    head.classifier.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    stage = torch.randn(2, 3, 7, 11, dtype=torch.float64)
    head.conv.norm.bias.fill_(100.0)  # no zero comes from the activation
    head(stage)
    assert (seen[0] > 0).all()
    head.train()(stage)
    share = (seen[1] == 0).double().mean(dim=(2, 3))
    assert set(share.flatten().tolist()) == {0.0, 1.0}


def test_the_default_on_c4_has_the_parameters_of_its_layers() -> None:
    head = AuxiliaryHead(AuxConfig(), 1024, 19)
    assert AuxConfig().stage == 2
    conv, norm, classifier = 1024 * 256 * 9, 2 * 256, 256 * 19 + 19
    assert sum(each.numel() for each in head.parameters()) == conv + norm + classifier


@pytest.mark.parametrize("wrong", [{"stage": 4}, {"stage": -1}, {"weight": -0.4}, {"dropout": 1.0}, {"channels": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        AuxConfig(**wrong)
