"""The CPU's dilated convolution against a loop over pixels in float64, and against torch's in bfloat16."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from segnl.models.blocks.conv import ConvNormAct
from segnl.ops.dilated_conv import dilated_conv2d, is_faster_dilated


def by_loops(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Every output pixel as the sum over the kernel's pixels that fall inside the map."""
    b, _, h, w = x.shape
    rows = []
    for y in range(h):
        for column in range(w):
            out = x.new_zeros(b, weight.shape[0])
            for i in range(3):
                for j in range(3):
                    at = (y + (i - 1) * dilation, column + (j - 1) * dilation)
                    if 0 <= at[0] < h and 0 <= at[1] < w:
                        out = out + x[:, :, at[0], at[1]] @ weight[:, :, i, j].t()
            rows.append(out)
    return torch.stack(rows, dim=-1).unflatten(-1, (h, w))


def inputs(
    hw: tuple[int, int], dtype: torch.dtype = torch.float64, b: int = 2, c: int = 3, d: int = 5
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((b, c, *hw), (d, c, 3, 3)))
    laid = (each.to(dtype).to(memory_format=torch.channels_last) for each in (x, weight))
    x, weight = (each.requires_grad_() for each in laid)
    return x, weight


@pytest.mark.parametrize("dilation", [1, 3, 6, 7, 20])  # the last ones leave the height, then everything
@pytest.mark.parametrize("hw", [(7, 11), (1, 11), (7, 1), (1, 1)])
def test_output_and_gradients_match_a_loop_over_pixels(hw: tuple[int, int], dilation: int) -> None:
    x, weight = inputs(hw)
    truth, ours = by_loops(x, weight, dilation), dilated_conv2d(x, weight, dilation)
    torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)
    given = torch.randn_like(truth)
    expected = torch.autograd.grad(truth, (x, weight), given)
    torch.testing.assert_close(torch.autograd.grad(ours, (x, weight), given), expected, rtol=1e-11, atol=1e-11)


def test_gradients_that_nobody_wants_are_not_taken() -> None:
    for wanted in (0, 1):
        pair = [each.detach().requires_grad_(place == wanted) for place, each in enumerate(inputs((7, 11)))]
        dilated_conv2d(pair[0], pair[1], 3).sum().backward()
        assert [each.grad is not None for each in pair] == [wanted == 0, wanted == 1]


@pytest.mark.parametrize(("c", "dilation"), [(16, 12), (1536, 12), (16, 3)])
def test_bfloat16_is_as_near_to_float64_as_torch_is(c: int, dilation: int) -> None:
    x, weight = inputs((32, 33), torch.bfloat16, c=c)
    given = torch.randn(2, 5, 32, 33, generator=torch.Generator().manual_seed(1)).bfloat16()

    def results(precise: bool, ours: bool) -> list[Tensor]:
        pair = [each.detach().to(torch.float64 if precise else each.dtype).requires_grad_() for each in (x, weight)]
        conv = dilated_conv2d if ours else lambda x, w, d: F.conv2d(x, w, padding=d, dilation=d)
        out = conv(*pair, dilation)
        return [out, *torch.autograd.grad(out, pair, given.to(out.dtype))]

    for exact, near, torchs in zip(results(True, False), results(False, True), results(False, False), strict=True):
        own, theirs = ((each.double() - exact).abs().max().item() for each in (near, torchs))
        assert own <= 1.5 * theirs  # the same number of roundings, not the same ones


def test_layers_in_bfloat16_on_the_cpu_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = dilated_conv2d
    monkeypatch.setattr(
        "segnl.models.blocks.conv.dilated_conv2d", lambda *given: calls.append(given[2]) or real(*given)
    )
    monkeypatch.setattr("segnl.ops.dilated_conv.SLOW_CHANNELS", 4)
    layer = ConvNormAct(4, 5, 3, dilation=6)
    x = torch.randn(2, 4, 7, 11).to(memory_format=torch.channels_last)
    layer(x)
    assert not calls  # float32: torch's own is as fast
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).sum().backward()
        assert calls == [6]
        ConvNormAct(4, 5, 3)(x)
        ConvNormAct(3, 5, 3, dilation=6)(x[:, :3])  # few channels
        ConvNormAct(4, 5, 3, dilation=6, has_norm=False)(x)  # with a bias
    assert calls == [6]
    assert layer.conv.weight.grad.dtype == torch.float32
    layer.bfloat16()(x.bfloat16())
    assert calls == [6, 6]


def test_float64_under_autocast_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segnl.ops.dilated_conv.SLOW_CHANNELS", 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert is_faster_dilated(torch.randn(2, 4, 7, 11), 6)
        assert not is_faster_dilated(torch.randn(2, 4, 7, 11, dtype=torch.float64), 6)


def test_flops_are_those_of_torchs_convolution() -> None:
    x, weight = (each.detach() for each in inputs((7, 11)))
    counts = []
    for conv in (dilated_conv2d, lambda x, w, d: F.conv2d(x, w, padding=d, dilation=d)):
        with FlopCounterMode(display=False) as counter:
            conv(x, weight, 3)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 2 * 7 * 11 * 3 * 5 * 9


def test_compiled_without_a_graph_break() -> None:
    x, weight = inputs((7, 11))
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.segnl.dilated_conv.default, (x, weight, 3), test_utils=tests)
    compiled = torch.compile(dilated_conv2d, fullgraph=True, backend="aot_eager")
    given = torch.randn(2, 5, 7, 11, dtype=torch.float64)
    results = []
    for function in (compiled, dilated_conv2d):
        out = function(x, weight, 3)
        results.append([out, *torch.autograd.grad(out, (x, weight), given)])
    torch.testing.assert_close(results[0], results[1])


def test_a_second_derivative_is_an_error() -> None:
    x, weight = inputs((7, 11))
    (grad,) = torch.autograd.grad(dilated_conv2d(x, weight, 3).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot differentiate twice"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "dilation", "message"),
    [
        ((2, 3, 7), (5, 3, 3, 3), 1, "x: shape"),
        ((2, 3, 7, 11), (5, 4, 3, 3), 1, "weight: shape"),
        ((2, 3, 7, 11), (5, 3, 1, 3), 1, "expected `d c 3 3`"),
        ((2, 3, 7, 11), (5, 3, 3, 3), 0, "dilation: 0; expected at least 1"),
        ((2, 3, 0, 11), (5, 3, 3, 3), 1, "is empty"),
    ],
)
def test_what_does_not_fit_is_named(
    x_shape: tuple[int, ...], weight_shape: tuple[int, ...], dilation: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dilated_conv2d(torch.zeros(x_shape), torch.zeros(weight_shape), dilation)
