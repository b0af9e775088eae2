"""The choice between torch's dilated convolution and the CPU's kernel."""

import pytest
import torch
import torch.nn.functional as F

from segnl.models.blocks.conv import ConvNormAct
from segnl.ops import dilated_conv
from segnl.ops.dilated_conv import dilated_conv2d


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The dilations with which the kernel is called; four channels count as many."""
    calls: list[int] = []
    kernel = dilated_conv.dilated_conv

    def recorded(x: torch.Tensor, weight: torch.Tensor, dilation: int) -> torch.Tensor:
        calls.append(dilation)
        return kernel(x, weight, dilation)

    monkeypatch.setattr(dilated_conv, "dilated_conv", recorded)
    monkeypatch.setattr(dilated_conv, "SLOW_CHANNELS", 4)
    return calls


def test_layers_in_bfloat16_on_the_cpu_use_the_kernel(kernel_calls: list[int]) -> None:
    layer = ConvNormAct(4, 5, 3, dilation=6)
    x = torch.randn(2, 4, 7, 11).to(memory_format=torch.channels_last)
    layer(x)
    assert not kernel_calls  # float32: torch's own is as fast
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).sum().backward()
        assert kernel_calls == [6]
        ConvNormAct(4, 5, 3)(x)
        ConvNormAct(3, 5, 3, dilation=6)(x[:, :3])  # few channels
        ConvNormAct(4, 5, 3, dilation=6, has_norm=False)(x)  # with a bias
    assert kernel_calls == [6]
    assert layer.conv.weight.grad.dtype == torch.float32
    layer.bfloat16()(x.bfloat16())
    assert kernel_calls == [6, 6]


def test_other_inputs_are_left_to_torch(kernel_calls: list[int]) -> None:
    x, weight = torch.randn(2, 4, 7, 11, dtype=torch.float64), torch.randn(5, 4, 3, 3, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert dilated_conv2d(x, weight, 6).equal(F.conv2d(x, weight, padding=6, dilation=6))
    dilated_conv2d(x.bfloat16(), weight.bfloat16(), 2)
    assert dilated_conv2d(x.bfloat16().to("meta"), weight.bfloat16().to("meta"), 6).shape == (2, 5, 7, 11)
    assert not kernel_calls


def test_a_map_that_does_not_fit_the_kernel_is_named(kernel_calls: list[int]) -> None:
    x, weight = torch.zeros(2, 4, 7, 11, dtype=torch.bfloat16), torch.zeros(5, 3, 3, 3, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="weight: shape"):
        dilated_conv2d(x, weight, 6)
    assert not kernel_calls
