import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segnl.models.blocks.conv import NormActConfig
from segnl.models.blocks.projected_attention import ProjectedAttention, projection


def attention_of(*, asking: int = 6, answering: int = 5, has_key: bool = True, **settings: Any) -> ProjectedAttention:
    torch.manual_seed(0)
    key = nn.Conv2d(answering, 4, 1) if has_key else None
    return ProjectedAttention(nn.Conv2d(asking, 4, 1), key, nn.Conv2d(answering, 3, 1), **settings).double().eval()


def map_of(b: int, c: int, h: int, w: int) -> Tensor:
    return torch.randn(b, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(c))


def projected(conv: nn.Module, position: Tensor) -> Tensor:
    """What a 1x1 convolution makes of one position's channels."""
    return conv.weight[:, :, 0, 0] @ position + conv.bias


def places(h: int, w: int, bins: tuple[int, ...]) -> list[list[tuple[int, int]]]:
    """The positions that each answer is the mean of: one each, or those of a cell."""
    if not bins:
        return [[(row, column)] for row in range(h) for column in range(w)]
    cells = []
    for s in bins:
        for i in range(s):
            for j in range(s):
                rows = range(i * h // s, math.ceil((i + 1) * h / s))
                cells.append([(row, c) for row in rows for c in range(j * w // s, math.ceil((j + 1) * w / s))])
    return cells


def by_loops(block: ProjectedAttention, asking: Tensor, answering: Tensor, scale: float) -> Tensor:
    b, _, h, w = asking.shape
    out = torch.zeros(b, 3, h, w, dtype=torch.float64)
    answers = places(*answering.shape[2:], block.bins)
    for image in range(b):
        keys, values = [], []
        for cell in answers:
            inputs = [answering[image, :, row, column] for row, column in cell]
            keys.append(sum(projected(block.key or block.query, each) for each in inputs) / len(cell))
            values.append(sum(projected(block.value, each) for each in inputs) / len(cell))
        for row in range(h):
            for column in range(w):
                query = projected(block.query, asking[image, :, row, column])
                powers = [math.exp(scale * (query @ key).item()) for key in keys]
                out[image, :, row, column] = sum(p * v for p, v in zip(powers, values, strict=True)) / sum(powers)
    return out


@pytest.mark.parametrize(("is_scaled", "scale"), [(True, 0.5), (False, 1.0)])  # four channels ask
@pytest.mark.parametrize(("b", "answering_hw"), [(2, (7, 11)), (1, (3, 5)), (1, (4, 1))])
@torch.no_grad()
def test_every_query_attends_to_all_keys(b: int, answering_hw: tuple[int, int], is_scaled: bool, scale: float) -> None:
    block = attention_of(is_scaled=is_scaled)
    asking, answering = map_of(b, 6, 7, 11), map_of(b, 5, *answering_hw)
    torch.testing.assert_close(block(asking, answering), by_loops(block, asking, answering, scale))


@pytest.mark.parametrize("has_key", [True, False])
@torch.no_grad()
def test_with_bins_keys_and_values_are_grid_means(has_key: bool) -> None:
    block = attention_of(asking=5, has_key=has_key, bins=(1, 3, 8))  # more bins than rows
    asking, answering = map_of(1, 5, 3, 5), map_of(1, 5, 7, 11)
    torch.testing.assert_close(block(asking, answering), by_loops(block, asking, answering, 0.5))


@torch.no_grad()
def test_without_a_key_query_and_key_are_tied() -> None:
    block = attention_of(asking=5, has_key=False)
    asking, answering = map_of(2, 5, 7, 11), map_of(2, 5, 3, 5) + 1
    torch.testing.assert_close(block(asking, answering), by_loops(block, asking, answering, 0.5))
    torch.testing.assert_close(block(asking, asking), by_loops(block, asking, asking, 0.5))
    assert not [path for path, _ in block.named_parameters() if path.startswith("key")]


def test_tied_self_attention_projects_the_map_once() -> None:
    block = ProjectedAttention(projection(NormActConfig(), 5, 4, num_convs=1), None, nn.Conv2d(5, 3, 1)).train()
    x = torch.randn(2, 5, 7, 11)
    block(x, x)
    assert block.query[0].norm.num_batches_tracked == 1


@pytest.mark.parametrize("is_scaled", [True, False])
@pytest.mark.parametrize("has_key", [True, False])
@torch.no_grad()
def test_a_row_times_its_values_is_its_positions_context(has_key: bool, is_scaled: bool) -> None:
    block = attention_of(asking=5, has_key=has_key, is_scaled=is_scaled)
    asking, answering = map_of(2, 5, 7, 11), map_of(2, 5, 3, 5) + 1
    hop = block.attend(asking, answering, [(2, 9), (6, 0)])
    assert hop.rows.shape == (2, 2, 3, 5)
    assert not hop.is_signed
    torch.testing.assert_close(hop.rows.sum(dim=(2, 3)), torch.ones(2, 2, dtype=torch.float64))
    torch.testing.assert_close(hop.aggregate(), block(asking, answering)[:, :, [2, 6], [9, 0]])


@pytest.mark.parametrize("bins", [(), (1, 3, 8)])
def test_compiles_in_one_graph_forward_and_backward(bins: tuple[int, ...]) -> None:
    block, asking, answering = attention_of(bins=bins), map_of(2, 6, 7, 11), map_of(2, 5, 3, 5)
    wanted = (asking.requires_grad_(), answering.requires_grad_(), *block.parameters())
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")(asking, answering)
    eager = block(asking, answering)
    torch.testing.assert_close(compiled, eager)
    ours, expected = (torch.autograd.grad(each.sin().sum(), wanted) for each in (compiled, eager))
    torch.testing.assert_close(ours, expected)


def test_a_projection_is_1x1_convolutions_with_the_configs_norm_and_activation() -> None:
    plain = projection(NormActConfig(has_norm=False, leaky_slope=0.2), 6, 4, num_convs=2)
    assert [(each.conv.in_channels, each.conv.out_channels, each.conv.kernel_size) for each in plain] == [
        (6, 4, (1, 1)),
        (4, 4, (1, 1)),
    ]
    assert [type(each.norm) for each in plain] == [nn.Identity] * 2
    assert [each.leaky_slope for each in plain] == [0.2] * 2
    assert isinstance(projection(NormActConfig(), 6, 4, num_convs=1)[0].norm, nn.BatchNorm2d)
