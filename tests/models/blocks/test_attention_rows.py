import torch

from segnl.models.blocks.attention_rows import Hop


def test_a_hops_aggregate_is_its_weighted_sum() -> None:
    rows = torch.zeros(1, 1, 2, 3)  # b q h w
    rows[0, 0, 1, 2], rows[0, 0, 0, 0] = 0.25, 0.75
    values = torch.arange(12.0).view(1, 2, 2, 3)
    aggregated = Hop(rows, values, is_signed=False).aggregate()  # b d q
    assert aggregated.tolist() == [[[0.25 * 5], [0.75 * 6 + 0.25 * 11]]]
