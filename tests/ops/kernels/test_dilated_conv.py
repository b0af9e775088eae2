"""The CPU's dilated convolution against a loop over pixels in float64, and against torch's in bfloat16."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from segnl.ops.kernels.dilated_conv import dilated_conv


def by_loops(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Every output pixel as the sum over the kernel's pixels that fall inside the map."""
    b, _, h, w = x.shape
    rows = []
    for y in range(h):
        for column in range(w):
            out = x.new_zeros(b, weight.shape[0])
            for i in range(3):
                for j in range(3):
                    u, v = y + (i - 1) * dilation, column + (j - 1) * dilation
                    if 0 <= u < h and 0 <= v < w:
                        out = out + x[:, :, u, v] @ weight[:, :, i, j].t()
            rows.append(out)
    return torch.stack(rows, dim=-1).unflatten(-1, (h, w))


def inputs(
    hw: tuple[int, int], dtype: torch.dtype = torch.float64, b: int = 2, c: int = 3, d: int = 5
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((b, c, *hw), (d, c, 3, 3)))
    x, weight = (y.to(dtype).to(memory_format=torch.channels_last).requires_grad_() for y in (x, weight))
    return x, weight


@pytest.mark.parametrize("dilation", [1, 3, 6, 7, 20])  # the last ones leave the height, then everything
@pytest.mark.parametrize("hw", [(7, 11), (1, 11), (7, 1), (1, 1)])
def test_output_and_gradients_match_a_loop_over_pixels(hw: tuple[int, int], dilation: int) -> None:
    x, weight = inputs(hw)
    expected, actual = by_loops(x, weight, dilation), dilated_conv(x, weight, dilation)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    grad_output = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, (x, weight), grad_output)
    torch.testing.assert_close(
        torch.autograd.grad(actual, (x, weight), grad_output), expected_grads, rtol=1e-11, atol=1e-11
    )


def test_only_the_required_gradients_are_computed() -> None:
    for trained in (0, 1):
        x, weight = (y.detach().requires_grad_(place == trained) for place, y in enumerate(inputs((7, 11))))
        dilated_conv(x, weight, 3).sum().backward()
        assert [x.grad is not None, weight.grad is not None] == [trained == 0, trained == 1]


@pytest.mark.parametrize(("c", "dilation"), [(16, 12), (1536, 12), (16, 3)])
def test_bfloat16_is_as_near_to_float64_as_torch_is(c: int, dilation: int) -> None:
    x, weight = inputs((32, 33), torch.bfloat16, c=c)
    grad_output = torch.randn(2, 5, 32, 33, generator=torch.Generator().manual_seed(1)).bfloat16()

    def results(precise: bool, padded: bool) -> list[Tensor]:
        pair = [y.detach().to(torch.float64 if precise else y.dtype).requires_grad_() for y in (x, weight)]
        conv = dilated_conv if padded else lambda x, w, d: F.conv2d(x, w, padding=d, dilation=d)
        out = conv(*pair, dilation)
        return [out, *torch.autograd.grad(out, pair, grad_output.to(out.dtype))]

    for exact, ours, torchs in zip(results(True, False), results(False, True), results(False, False), strict=True):
        our_error, torchs_error = ((y.double() - exact).abs().max().item() for y in (ours, torchs))
        assert our_error <= 1.5 * torchs_error  # the same number of roundings, at other places


def test_flops_are_those_of_torchs_convolution() -> None:
    x, weight = (y.detach() for y in inputs((7, 11)))
    counts = []
    for conv in (dilated_conv, lambda x, w, d: F.conv2d(x, w, padding=d, dilation=d)):
        with FlopCounterMode(display=False) as counter:
            conv(x, weight, 3)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 2 * 7 * 11 * 3 * 5 * 9


def test_compiled_without_a_graph_break() -> None:
    x, weight = inputs((7, 11))
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.segnl.dilated_conv.default, (x, weight, 3), test_utils=tests)
    compiled = torch.compile(dilated_conv, fullgraph=True, backend="aot_eager")
    grad_output = torch.randn(2, 5, 7, 11, dtype=torch.float64)
    results = []
    for function in (compiled, dilated_conv):
        out = function(x, weight, 3)
        results.append([out, *torch.autograd.grad(out, (x, weight), grad_output)])
    torch.testing.assert_close(results[0], results[1])


def test_a_second_derivative_is_an_error() -> None:
    x, weight = inputs((7, 11))
    (grad,) = torch.autograd.grad(dilated_conv(x, weight, 3).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot differentiate twice"):
        grad.sum().backward()
