import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from segnl.models.heads.base import attention_rows
from segnl.models.heads.isa import ISAConfig, ISAHead, Relation

Place = tuple[int, int]
HW = (7, 11)
GROUP_HW = (5, 8)
PADDED = [(row, column) for row in range(10) for column in range(16)]
TOP, LEFT = 1, 2  # of 3 rows and 5 columns of padding


def bare_head(group_hw: Place = GROUP_HW, channels: int = 4) -> ISAHead:
    """The two attentions alone, on the stage as it is: what is gathered beside the stage."""
    torch.manual_seed(0)
    cfg = ISAConfig(channels=channels, group_hw=group_hw, leaky_slope=0.5)  # nothing is cut off on the way
    head = ISAHead(cfg, (0, 0, 0, channels), 3).double().eval()
    head.reduce = head.join = nn.Identity()
    for name, tensor in head.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("var") else torch.randn_like(tensor) / 2)
    return head


def gathered(head: ISAHead, x: Tensor) -> Tensor:
    both: Tensor = head([None, None, None, x]).context  # type: ignore[list-item]
    assert torch.equal(both[:, -x.shape[1] :], x)
    return both[:, : -x.shape[1]]


def place_in_group(place: Place) -> Place:
    return place[0] % GROUP_HW[0], place[1] % GROUP_HW[1]


def group(place: Place) -> Place:
    return place[0] // GROUP_HW[0], place[1] // GROUP_HW[1]


def attended(relation: Relation, x: Tensor, key: Any) -> Tensor:
    """Position after position gathers from those of the padded map that have its key."""
    attention, out = relation.attention, torch.zeros_like(x)
    query, keys, values = attention.query(x), attention.key(x), attention.value(x)
    for image in range(x.shape[0]):
        for asking in PADDED:
            answering = [place for place in PADDED if key(place) == key(asking)]
            powers = []
            for row, column in answering:
                score = query[image, :, asking[0], asking[1]] @ keys[image, :, row, column]
                powers.append(math.exp(score.item() / math.sqrt(query.shape[1])))
            for power, (row, column) in zip(powers, answering, strict=True):
                out[image, :, asking[0], asking[1]] += power / sum(powers) * values[image, :, row, column]
    return relation.out(out)


@torch.no_grad()
def test_long_range_attention_precedes_short_range_attention() -> None:
    head, x = bare_head(), torch.randn(1, 4, *HW, dtype=torch.float64)
    padded = torch.zeros(1, 4, 10, 16, dtype=torch.float64)  # zeros, which are attended to as well
    padded[:, :, TOP : TOP + 7, LEFT : LEFT + 11] = x
    far = attended(head.long_range, padded, place_in_group)
    near = attended(head.short_range, far, group)
    torch.testing.assert_close(gathered(head, x), near[:, :, TOP : TOP + 7, LEFT : LEFT + 11])


def reached(head: ISAHead, changed: Place) -> set[Place]:
    x = torch.randn(2, 4, *HW, dtype=torch.float64)
    other = x.clone()
    other[1, :, changed[0], changed[1]] += 1
    difference = (gathered(head, other) - gathered(head, x)).abs().sum(dim=1)
    assert not difference[0].any()  # the other image
    return {(row, column) for row, column in torch.nonzero(difference[1]).tolist()}


def reachable(changed: Place, key: Any) -> set[Place]:
    at = key((changed[0] + TOP, changed[1] + LEFT))
    return {(row, column) for row in range(7) for column in range(11) if key((row + TOP, column + LEFT)) == at}


@pytest.mark.parametrize("changed", [(0, 0), (3, 5), (4, 6), (6, 10)])
@torch.no_grad()
def test_both_attentions_together_reach_the_whole_map(changed: Place) -> None:
    far, near, both = bare_head(), bare_head(), bare_head()
    far.short_range, near.long_range = nn.Identity(), nn.Identity()
    assert reached(far, changed) == reachable(changed, place_in_group)
    assert reached(near, changed) == reachable(changed, group)
    assert reached(both, changed) == {(row, column) for row in range(7) for column in range(11)}


@torch.no_grad()
def test_a_map_that_groups_divide_is_not_padded() -> None:
    head, seen = bare_head(group_hw=(7, 11)), []
    head.short_range.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    gathered(head, torch.randn(2, 4, 14, 11, dtype=torch.float64))
    assert seen == [(2 * 2, 4, 7, 11)]


@torch.no_grad()
def test_the_context_joins_the_attention_and_the_reduced_stage() -> None:
    bare, head = bare_head(), ISAHead(ISAConfig(channels=4, group_hw=GROUP_HW, leaky_slope=0.5), (0, 0, 0, 6), 3)
    head.double().eval()
    bare.long_range, bare.short_range = head.long_range, head.short_range
    stage = torch.randn(2, 6, *HW, dtype=torch.float64)
    x = head.reduce(stage)
    expected = head.join(torch.cat([gathered(bare, x), x], dim=1))
    torch.testing.assert_close(head([None, None, None, stage]).context, expected)


def test_the_default_has_the_parameters_of_its_layers() -> None:
    head = ISAHead(ISAConfig(), (256, 512, 1024, 2048), 19)
    reduce, join = 2048 * 512 * 9 + 2 * 512, 2 * 512 * 512 + 2 * 512
    query = (512 * 256 + 2 * 256) + (256 * 256 + 2 * 256)  # and as much for the key
    relation = 2 * query + (512 * 512 + 512) + (512 * 512 + 2 * 512)
    assert sum(each.numel() for each in head.parameters()) == reduce + 2 * relation + join


@pytest.mark.parametrize("group_hw", [(0, 8), (8,), (8, 8, 8)])
def test_a_group_has_a_number_of_rows_and_one_of_columns(group_hw: Any) -> None:
    with pytest.raises(ValidationError, match="group_hw"):
        ISAConfig(group_hw=group_hw)


def dense(relation: Relation, x: Tensor, key: Any) -> Tensor:
    """The matrix of one attention over the padded map, position by position: those with the same key attend."""
    attention, matrix = relation.attention, torch.zeros(len(PADDED), len(PADDED), dtype=torch.float64)
    query, keys = attention.query(x)[0], attention.key(x)[0]
    for i, (row, column) in enumerate(PADDED):
        same = [j for j, place in enumerate(PADDED) if key(place) == key((row, column))]
        scores = torch.stack([query[:, row, column] @ keys[:, PADDED[j][0], PADDED[j][1]] for j in same])
        matrix[i, same] = (scores / math.sqrt(query.shape[0])).softmax(dim=0)
    return matrix


@torch.no_grad()
def test_routing_is_the_product_of_both_attentions() -> None:
    head, x = bare_head(), torch.randn(1, 4, *HW, dtype=torch.float64)
    padded = torch.zeros(1, 4, 10, 16, dtype=torch.float64)
    padded[:, :, TOP : TOP + 7, LEFT : LEFT + 11] = x
    far = dense(head.long_range, padded, place_in_group)
    near = dense(head.short_range, attended(head.long_range, padded, place_in_group), group)
    pixels = [(0, 0), (3, 9), (6, 10)]
    rows = attention_rows(head, [None, None, None, x], pixels)  # type: ignore[list-item]
    queries = [PADDED.index((row + TOP, column + LEFT)) for row, column in pixels]
    for ours, matrix in ((rows.hops[0].rows, far), (rows.hops[1].rows, near), (rows.routing, near @ far)):
        expected = matrix[queries].unflatten(1, (10, 16))[None, :, TOP : TOP + 7, LEFT : LEFT + 11]
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("group_hw", [(7, 1), (1, 11)])  # no padding
@torch.no_grad()
def test_a_row_times_its_values_is_the_context(group_hw: Place) -> None:
    head, x = bare_head(group_hw), torch.randn(2, 4, *HW, dtype=torch.float64)
    second = attention_rows(head, [None, None, None, x], [(3, 9), (6, 0)]).hops[1]  # type: ignore[list-item]
    expected = gathered(head, x)[:, :, [3, 6], [9, 0]]
    torch.testing.assert_close(head.short_range.out(second.aggregate()[..., None])[..., 0], expected)
