import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from segnl.models.blocks.criss_cross import CrissCrossBlock, CrissCrossConfig
from segnl.models.blocks.non_local import NonLocalBlock, NonLocalConfig
from segnl.profiling.flops import (
    count_algorithm_flops,
    count_flops,
    non_local_flops,
    num_parameters,
    published_comparison,
    published_flops,
)


class OneConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.auxiliary = nn.Linear(7, 11)

    def forward(self, image):
        return self.conv(image)


def test_a_multiplication_with_its_addition_counts_as_two():
    assert count_flops(OneConv(), torch.zeros(1, 3, 7, 11)) == 2 * 3 * 5 * 9 * 7 * 11


def test_parameters_of_the_auxiliary_head_are_not_counted():
    assert num_parameters(OneConv()) == 3 * 5 * 9


def test_the_published_comparison_agrees_to_two_decimals():
    with FakeTensorMode():
        comparison = published_comparison(torch.empty(1, 512, 97, 97))
    assert {name: round(value, 2) for name, value in comparison.items()} == {
        "non_local": 108.15,
        "rcca R=1": 8.27,
        "rcca R=2": 16.54,
        "rcca R=3": 24.81,
    }


@pytest.mark.parametrize(
    ("pairwise", "executed", "counted"),
    # mmcv's module of the same widths: 100.52. Dot product and concatenation execute less than all pairs.
    [("embedded_gaussian", 100.52, 100.52), ("dot_product", 12.33, 100.52), ("concatenation", 5.58, 145.85)],
)
def test_executed_and_algorithm_flops_are_counted_separately(pairwise, executed, counted):
    with FakeTensorMode():
        block, x = NonLocalBlock(512, NonLocalConfig(pairwise=pairwise)), torch.empty(1, 512, 97, 97)
        assert round(count_flops(block, x) / 1e9, 2) == executed
        assert round(count_algorithm_flops(block, x) / 1e9, 2) == counted


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian"])
@pytest.mark.parametrize("subsample", [False, True])
def test_both_counts_agree_where_all_pairs_are_executed(pairwise, subsample):
    with FakeTensorMode():
        block = NonLocalBlock(16, NonLocalConfig(pairwise=pairwise, subsample=subsample))
        x = torch.empty(2, 16, 7, 11)
        assert count_algorithm_flops(block, x) == count_flops(block, x)


def test_the_flops_of_all_pairs_equal_a_loop_over_pairs():
    queries, keys, channels, query_channels, value_channels = 3, 5, 7, 2, 4
    total = 0
    for _ in range(queries):
        total += 2 * channels * (2 * query_channels + value_channels)  # theta, phi, g
        for _ in range(keys):
            total += 2 * query_channels  # theta_i . phi_j
            total += 2 * value_channels  # + f_ij g_j
    widths = queries, keys, channels, query_channels, value_channels
    assert non_local_flops("dot_product", *widths) == total
    # w . [theta_i, phi_j] is twice as long
    assert non_local_flops("concatenation", *widths) == total + queries * keys * 2 * query_channels


def test_published_flops_do_not_depend_on_the_blocks_own_widths():
    with FakeTensorMode():
        x = torch.empty(1, 512, 97, 97)
        blocks = [NonLocalBlock(512, NonLocalConfig(reduction=reduction)) for reduction in (1, 2, 8)]
        crosses = [CrissCrossBlock(512, CrissCrossConfig(reduction=reduction, recurrence=2)) for reduction in (4, 8)]
        assert {round(published_flops(block, x) / 1e9, 2) for block in blocks} == {108.15}
        assert {round(published_flops(block, x) / 1e9, 2) for block in crosses} == {16.54}
        with pytest.raises(ValueError, match="Conv2d; expected"):
            published_flops(nn.Conv2d(3, 3, 1), x)
