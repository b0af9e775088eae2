"""Context between channels against loops over pairs of channels in float64."""

import math

import pytest
import torch
from torch import Tensor

from segnl.ops.context import channel_context


def by_loops(x: Tensor) -> Tensor:
    """The authors' energies, channel by channel: similarities subtracted from the largest, then a softmax."""
    b, c, _ = x.shape
    x = x.double()
    out = torch.zeros_like(x)
    for image in range(b):
        for query in range(c):
            similarities = [(x[image, query] * x[image, key]).sum().item() for key in range(c)]
            energies = [max(similarities) - similarity for similarity in similarities]
            powers = [math.exp(energy - max(energies)) for energy in energies]
            for key in range(c):
                out[image, query] += powers[key] / sum(powers) * x[image, key]
    return out


def map_of(b: int, c: int, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Products of channels are of the order of 1, so that no weight is all or nothing."""
    x = torch.randn(b, c, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / n**0.5
    return x.to(dtype).requires_grad_()


@pytest.mark.parametrize(("b", "c", "n"), [(2, 5, 77), (1, 7, 11), (1, 1, 5), (2, 3, 1)])
def test_context_matches_a_loop_over_pairs_of_channels(b: int, c: int, n: int) -> None:
    x = map_of(b, c, n)
    torch.testing.assert_close(channel_context(x), by_loops(x), rtol=1e-12, atol=1e-12)


def test_a_channel_takes_less_of_one_that_is_more_alike() -> None:
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])  # the first two are equal
    like, unlike = channel_context(x)[0, 0]
    assert unlike == pytest.approx(math.e / (2 + math.e))
    assert like == pytest.approx(2 / (2 + math.e))


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(channel_context, map_of(2, 4, 7))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_the_result_alone(dtype: torch.dtype) -> None:
    x = map_of(2, 5, 770, dtype)
    context = channel_context(x)
    assert context.dtype == dtype
    # One rounding of the dtype; float32 products and sums before it.
    torch.testing.assert_close(context.double(), by_loops(x), rtol=torch.finfo(dtype).eps / 2, atol=1e-6)


def test_products_that_float16_cannot_hold_are_weighed_all_the_same() -> None:
    x = torch.full((1, 3, 4000), 8.0, dtype=torch.float16)  # 256,000 each
    assert torch.equal(channel_context(x), x)


def test_autocast_rounds_the_map_and_accumulates_in_float32() -> None:
    x = map_of(2, 5, 770, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        context = channel_context(x)
    assert context.dtype == torch.bfloat16
    torch.testing.assert_close(context.double(), by_loops(x.bfloat16()), rtol=2**-8, atol=1e-6)  # one rounding
    context.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_memory_layout_of_the_map_does_not_matter() -> None:
    x = map_of(2, 5, 77)
    torch.testing.assert_close(channel_context(x.mT.contiguous().mT), channel_context(x))


def test_compiles_in_one_graph_forward_and_backward() -> None:
    x = map_of(2, 5, 77)
    compiled, eager = torch.compile(channel_context, fullgraph=True, backend="aot_eager")(x), channel_context(x)
    torch.testing.assert_close(compiled, eager)
    actual, expected = (torch.autograd.grad(y.sin().sum(), x)[0] for y in (compiled, eager))
    torch.testing.assert_close(actual, expected)


def test_meta_tensors_give_a_shape() -> None:
    context = channel_context(map_of(2, 5, 77).to("meta"))
    assert (context.shape, context.device.type) == ((2, 5, 77), "meta")


def test_a_bad_argument_is_named() -> None:
    x = map_of(2, 5, 7).detach()
    with pytest.raises(ValueError, match=r"x: shape \(2, 5, 1, 7\); expected 3 axes `b c n`"):
        channel_context(x[:, :, None])
    with pytest.raises(ValueError, match=r"x: shape \(2, 5, 0\) is empty; expected `b c n`, each at least 1"):
        channel_context(x[:, :, :0])
    with pytest.raises(ValueError, match=r"x: torch.int64; expected float32, float64, bfloat16 or float16"):
        channel_context(x.long())
