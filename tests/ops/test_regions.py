"""What regions hold, against loops over regions and positions in float64."""

import math

import pytest
import torch
from torch import Tensor

from segnl.ops.context import region_context


def by_loops(scores: Tensor, g: Tensor) -> Tensor:
    """One region after another shares itself out over the positions."""
    (b, r, m), d = scores.shape, g.shape[1]
    out = torch.zeros(b, d, r, dtype=torch.float64)
    for image in range(b):
        for region in range(r):
            powers = [math.exp(scores[image, region, j].item()) for j in range(m)]
            for j in range(m):
                out[image, :, region] += powers[j] / sum(powers) * g[image, :, j].double()
    return out


def maps(b: int, r: int, m: int, d: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(b, r, m), (b, d, m)]
    return [torch.randn(s, dtype=torch.float64, generator=generator).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize(("b", "r", "m", "d"), [(2, 3, 77, 5), (1, 19, 11, 4), (1, 1, 7, 1), (2, 4, 1, 3)])
def test_every_region_is_a_weighed_mean_of_all_positions(b: int, r: int, m: int, d: int) -> None:
    scores, g = maps(b, r, m, d)
    torch.testing.assert_close(region_context(scores, g), by_loops(scores, g), rtol=1e-12, atol=1e-12)


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(region_context, maps(2, 3, 7, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_the_result_alone(dtype: torch.dtype) -> None:
    scores, g = maps(2, 3, 770, 5, dtype)
    context, exact = region_context(scores, g), by_loops(scores, g)
    assert context.dtype == dtype
    # One rounding of the dtype; float32 sums before it.
    torch.testing.assert_close(context.double(), exact, rtol=torch.finfo(dtype).eps / 2, atol=1e-6)
    precise = [x.detach().double().requires_grad_() for x in (scores, g)]
    grad_output = torch.randn_like(context)
    actual = torch.autograd.grad(context, (scores, g), grad_output)
    for near, exact in zip(
        actual, torch.autograd.grad(region_context(*precise), precise, grad_output.double()), strict=True
    ):
        torch.testing.assert_close(near.double(), exact, rtol=torch.finfo(dtype).eps / 2, atol=1e-6)


def test_autocast_takes_mixed_dtypes_and_accumulates_in_float32() -> None:
    scores, g = maps(2, 3, 770, 5, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        context = region_context(scores, g.bfloat16())
    assert context.dtype == torch.bfloat16
    exact = by_loops(scores.bfloat16(), g.bfloat16())
    torch.testing.assert_close(context.double(), exact, rtol=2**-8, atol=1e-6)  # one rounding, after float32 sums
    context.float().sum().backward()
    assert all(x.grad is not None and x.grad.dtype == torch.float32 for x in (scores, g))


def test_large_scores_stay_finite_and_choose_one_position() -> None:
    scores, g = (x.detach() for x in maps(1, 3, 77, 5, torch.float16))
    context = region_context(scores * 10_000, g)
    chosen = scores[0].argmax(dim=1)
    torch.testing.assert_close(context[0], g[0][:, chosen])


def test_memory_layout_of_the_inputs_does_not_matter() -> None:
    scores, g = maps(2, 3, 77, 5)
    others = (scores.mT.contiguous().mT, g.mT.contiguous().mT)
    torch.testing.assert_close(region_context(*others), region_context(scores, g))


def test_compiles_in_one_graph_forward_and_backward() -> None:
    inputs = maps(2, 3, 77, 5)
    compiled, eager = (
        torch.compile(region_context, fullgraph=True, backend="aot_eager")(*inputs),
        region_context(*inputs),
    )
    torch.testing.assert_close(compiled, eager)
    actual, expected = (torch.autograd.grad(y.sin().sum(), inputs) for y in (compiled, eager))
    torch.testing.assert_close(actual, expected)


def test_meta_tensors_give_a_shape() -> None:
    context = region_context(*(x.to("meta") for x in maps(2, 3, 77, 5)))
    assert (context.shape, context.device.type) == ((2, 5, 3), "meta")


def test_a_bad_argument_is_named() -> None:
    scores, g = (x.detach() for x in maps(2, 3, 7, 5))
    with pytest.raises(ValueError, match=r"g: shape \(2, 5, 6\); expected `b d m` with b=2, d=5, m=7"):
        region_context(scores, g[:, :, :6])
    with pytest.raises(ValueError, match=r"g: shape \(1, 5, 7\); expected `b d m` with b=2"):
        region_context(scores, g[:1])
    with pytest.raises(ValueError, match=r"scores: shape \(2, 0, 7\) is empty; expected `b r m`, each at least 1"):
        region_context(scores[:, :0], g)
    with pytest.raises(ValueError, match=r"scores: shape \(2, 7\); expected 3 axes `b r m`"):
        region_context(scores[:, 0], g)
    with pytest.raises(ValueError, match=r"g: torch.float16; expected torch.float64, the dtype of scores"):
        region_context(scores, g.half())
    with pytest.raises(ValueError, match=r"scores: torch.int64; expected float32, float64, bfloat16 or float16"):
        region_context(scores.long(), g)
