"""Means over grids against loops over cells in float64, and against torch's adaptive pooling."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.ops.context import pyramid_means

BINS = [(1,), (1, 2, 3, 6), (1, 3, 6, 8), (5, 2)]


def by_loops(x: Tensor, bins: tuple[int, ...]) -> Tensor:
    """One cell after another, position after position: grid after grid, each row by row."""
    h, w = x.shape[2:]
    means = []
    for s in bins:
        for i in range(s):
            for j in range(s):
                rows = range(math.floor(i * h / s), math.ceil((i + 1) * h / s))
                columns = range(math.floor(j * w / s), math.ceil((j + 1) * w / s))
                cell = [x[:, :, row, column].double() for row in rows for column in columns]
                means.append(sum(cell) / len(cell))  # b c
    return torch.stack(means, dim=2)  # type: ignore[arg-type]


def map_of(b: int, h: int, w: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(b, 5, h, w, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()


@pytest.mark.parametrize("bins", BINS)
@pytest.mark.parametrize(("b", "h", "w"), [(2, 7, 11), (1, 7, 11), (1, 12, 18)])
def test_means_match_a_loop_over_cells(b: int, h: int, w: int, bins: tuple[int, ...]) -> None:
    x = map_of(b, h, w)
    torch.testing.assert_close(pyramid_means(x, bins), by_loops(x, bins), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bins", [*BINS, (8,)])
@pytest.mark.parametrize(("h", "w"), [(7, 11), (3, 5), (1, 5), (1, 1)])  # the last three have fewer rows than bins
def test_means_and_gradients_are_those_of_adaptive_pooling(h: int, w: int, bins: tuple[int, ...]) -> None:
    x = map_of(2, h, w)
    actual = pyramid_means(x, bins)
    expected = torch.cat([F.adaptive_avg_pool2d(x, s).flatten(2) for s in bins], dim=2)
    torch.testing.assert_close(actual, expected)
    grad_output = torch.randn_like(actual)
    torch.testing.assert_close(
        torch.autograd.grad(actual, x, grad_output), torch.autograd.grad(expected, x, grad_output)
    )


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(lambda x: pyramid_means(x, (1, 3, 8)), map_of(1, 7, 5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_the_result_alone(dtype: torch.dtype) -> None:
    x = map_of(2, 37, 41, dtype)
    means = pyramid_means(x, (1, 2, 3, 6))
    assert means.dtype == dtype
    # One rounding of the dtype; float32 sums before it.
    torch.testing.assert_close(means.double(), by_loops(x, (1, 2, 3, 6)), rtol=torch.finfo(dtype).eps / 2, atol=1e-6)


def test_a_sum_that_float16_cannot_hold_gives_its_mean() -> None:
    x = torch.full((1, 2, 37, 41), 60_000.0, dtype=torch.float16)
    assert torch.equal(pyramid_means(x, (1, 2)), torch.full((1, 2, 5), 60_000.0, dtype=torch.float16))


def test_autocast_leaves_float32_means_as_they_are() -> None:
    x = map_of(2, 37, 41, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        means = pyramid_means(x, (1, 2, 3, 6))
    assert torch.equal(means, pyramid_means(x, (1, 2, 3, 6)))


def test_channels_last_gives_the_same_means() -> None:
    x = map_of(2, 7, 11)
    torch.testing.assert_close(
        pyramid_means(x.to(memory_format=torch.channels_last), (1, 3, 6, 8)), pyramid_means(x, (1, 3, 6, 8))
    )


def test_compiles_in_one_graph_forward_and_backward() -> None:
    x = map_of(2, 7, 11)
    compiled = torch.compile(pyramid_means, fullgraph=True, backend="aot_eager")(x, (1, 3, 8))
    eager = pyramid_means(x, (1, 3, 8))
    torch.testing.assert_close(compiled, eager)
    actual, expected = (torch.autograd.grad(y.sin().sum(), x)[0] for y in (compiled, eager))
    torch.testing.assert_close(actual, expected)


def test_an_exported_graph_pools_a_size_that_bins_do_not_divide_without_adaptive_pooling() -> None:
    class Means(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return pyramid_means(x, (1, 3, 8))

    x = map_of(1, 7, 11).detach()
    program = torch.export.export(Means(), (x,))
    assert not [node for node in program.graph.nodes if "adaptive" in str(node.target)]
    torch.testing.assert_close(program.module()(x), pyramid_means(x, (1, 3, 8)))


def test_meta_tensors_give_a_shape() -> None:
    means = pyramid_means(map_of(2, 7, 11).to("meta"), (1, 2, 3, 6))
    assert (means.shape, means.device.type) == ((2, 5, 50), "meta")


def test_a_bad_argument_is_named() -> None:
    x = map_of(2, 7, 11)
    with pytest.raises(ValueError, match=r"x: shape \(5, 7, 11\); expected 4 axes `b c h w`"):
        pyramid_means(x[0], (1,))
    with pytest.raises(ValueError, match=r"x: shape \(2, 5, 0, 11\) is empty; expected `b c h w`"):
        pyramid_means(x[:, :, :0], (1,))
    with pytest.raises(ValueError, match=r"x: torch.int64; expected float32"):
        pyramid_means(x.long(), (1,))
    for bins in ((), (1, 0), (-2,)):
        with pytest.raises(ValueError, match=r"bins: \(.*\); expected numbers of at least 1"):
            pyramid_means(x, bins)
