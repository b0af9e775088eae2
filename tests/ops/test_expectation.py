"""Steps of expectation and maximisation against loops over positions and bases in float64."""

import math

import pytest
import torch
from torch import Tensor

from segnl.ops.context import expectation_context


def by_loops(x: Tensor, bases: Tensor, num_steps: int) -> tuple[Tensor, Tensor]:
    """Image by image: every position shares itself out, every base becomes its positions' mean, of length 1."""
    rebuilt, new_bases = torch.zeros_like(x, dtype=torch.float64), bases.double().clone()
    b, _, n = x.shape
    r = bases.shape[2]
    for image in range(b):
        positions, base = x[image].double(), new_bases[image]  # c n, c r
        for _ in range(num_steps):
            shares = []
            for i in range(n):
                powers = [math.exp((positions[:, i] @ base[:, k]).item()) for k in range(r)]
                shares.append([power / sum(powers) for power in powers])
            for k in range(r):
                total = sum(shares[i][k] for i in range(n))
                mean = sum(shares[i][k] / total * positions[:, i] for i in range(n))
                base[:, k] = mean / math.sqrt((mean @ mean).item())
        for i in range(n):
            rebuilt[image, :, i] = sum(shares[i][k] * base[:, k] for k in range(r))
    return rebuilt, new_bases


def maps(b: int, c: int, n: int, r: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(b, c, n), (b, c, r)]
    x, bases = (torch.randn(s, dtype=torch.float64, generator=generator).to(dtype) for s in shapes)
    return x, bases


@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize(("b", "c", "n", "r"), [(2, 5, 77, 3), (1, 4, 11, 6), (1, 3, 1, 2), (2, 1, 7, 1)])
def test_map_and_bases_match_loops_over_positions_and_bases(b: int, c: int, n: int, r: int, num_steps: int) -> None:
    x, bases = maps(b, c, n, r)
    actual, expected = expectation_context(x, bases, num_steps=num_steps), by_loops(x, bases, num_steps)
    for near, exact in zip(actual, expected, strict=True):
        torch.testing.assert_close(near, exact, rtol=1e-11, atol=1e-11)


def test_bases_end_with_length_one_and_the_initial_ones_stay() -> None:
    x, bases = maps(2, 5, 77, 3)
    before = bases.clone()
    _, new_bases = expectation_context(x, bases, num_steps=2)
    torch.testing.assert_close(new_bases.norm(dim=1), torch.ones(2, 3, dtype=torch.float64))
    assert torch.equal(bases, before)


def test_an_image_has_bases_of_its_own() -> None:
    x, bases = maps(2, 5, 77, 3)
    alone = expectation_context(x[1:], bases[1:], num_steps=3)
    both = expectation_context(x, bases, num_steps=3)
    for from_one, from_two in zip(alone, both, strict=True):
        torch.testing.assert_close(from_one, from_two[1:])


def test_neither_result_has_a_gradient() -> None:
    x, bases = maps(2, 5, 77, 3)
    rebuilt, new_bases = expectation_context(x.requires_grad_(), bases.requires_grad_(), num_steps=1)
    assert not rebuilt.requires_grad
    assert not new_bases.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_the_results_alone(dtype: torch.dtype) -> None:
    x, bases = maps(2, 5, 300, 3, dtype)
    for near, exact in zip(expectation_context(x, bases, num_steps=3), by_loops(x, bases, 3), strict=True):
        assert near.dtype == dtype
        # One rounding of the dtype; three steps in float32 before it.
        torch.testing.assert_close(near.double(), exact, rtol=torch.finfo(dtype).eps / 2, atol=1e-5)


def test_autocast_takes_mixed_dtypes_and_accumulates_in_float32() -> None:
    x, bases = maps(2, 5, 300, 3, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = expectation_context(x.bfloat16(), bases, num_steps=3)
    assert [x.dtype for x in actual] == [torch.bfloat16, torch.float32]
    for near, exact in zip(actual, by_loops(x.bfloat16(), bases, 3), strict=True):
        torch.testing.assert_close(near.double(), exact, rtol=2**-8, atol=1e-5)  # one rounding, after float32 steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_scores_and_bases_that_nobody_chooses_stay_finite(dtype: torch.dtype) -> None:
    x, bases = maps(1, 5, 7, 30, dtype)
    assert all(y.isfinite().all() for y in expectation_context(x * 100, bases * 100, num_steps=3))


def test_memory_layout_of_the_inputs_does_not_matter() -> None:
    x, bases = maps(2, 5, 77, 3)
    others = expectation_context(x.mT.contiguous().mT, bases[:1].expand(2, -1, -1), num_steps=3)
    plain = expectation_context(x, bases[:1].repeat(2, 1, 1), num_steps=3)
    torch.testing.assert_close(others, plain)


def test_compiles_in_one_graph() -> None:
    x, bases = maps(2, 5, 77, 3)
    compiled = torch.compile(expectation_context, fullgraph=True, backend="aot_eager")(x, bases, num_steps=2)
    torch.testing.assert_close(compiled, expectation_context(x, bases, num_steps=2))


def test_meta_tensors_give_shapes() -> None:
    rebuilt, new_bases = expectation_context(*(y.to("meta") for y in maps(2, 5, 77, 3)), num_steps=1)
    assert (rebuilt.shape, new_bases.shape) == ((2, 5, 77), (2, 5, 3))


def test_a_bad_argument_is_named() -> None:
    x, bases = maps(2, 5, 7, 3)
    with pytest.raises(ValueError, match=r"num_steps: 0; expected at least 1"):
        expectation_context(x, bases, num_steps=0)
    with pytest.raises(ValueError, match=r"bases: shape \(2, 4, 3\); expected `b c r` with b=2, c=5"):
        expectation_context(x, bases[:, :4], num_steps=1)
    with pytest.raises(ValueError, match=r"bases: shape \(1, 5, 3\); expected `b c r` with b=2"):
        expectation_context(x, bases[:1], num_steps=1)
    with pytest.raises(ValueError, match=r"x: shape \(2, 5, 1, 7\); expected 3 axes `b c n`"):
        expectation_context(x[:, :, None], bases, num_steps=1)
    with pytest.raises(ValueError, match=r"x: shape \(2, 5, 0\) is empty; expected `b c n`, each at least 1"):
        expectation_context(x[:, :, :0], bases, num_steps=1)
    with pytest.raises(ValueError, match=r"bases: torch.float32; expected torch.float64, the dtype of x"):
        expectation_context(x, bases.float(), num_steps=1)
