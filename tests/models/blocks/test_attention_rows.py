import torch

from segnl.models.blocks.attention_rows import Hop


def test_a_hops_aggregate_is_its_weighted_sum() -> None:
    row = torch.zeros(1, 2, 3)
    row[0, 1, 2], row[0, 0, 0] = 0.25, 0.75
    values = torch.arange(12.0).view(1, 2, 2, 3)
    assert Hop(row, values, is_signed=False).aggregate().tolist() == [[0.25 * 5, 0.75 * 6 + 0.25 * 11]]
