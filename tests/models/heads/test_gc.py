import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from segnl.models.heads.base import attention_rows
from segnl.models.heads.gc import GCHead, GCHeadConfig, GlobalContextBlock, GlobalContextConfig
from segnl.models.initialisation import initialise

FUSIONS = ["add", "multiply", "both"]


def awake_block(**settings: Any) -> GlobalContextBlock:
    torch.manual_seed(0)
    block = GlobalContextBlock(8, GlobalContextConfig(**settings)).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return block


def summary_by_loops(block: GlobalContextBlock, x: Tensor) -> Tensor:
    """Position after position, each by its share: `b c`."""
    b, c, h, w = x.shape
    summary = torch.zeros(b, c, dtype=torch.float64)
    for image in range(b):
        positions = [x[image, :, row, column] for row in range(h) for column in range(w)]
        if block.unary is None:
            powers = [1.0] * len(positions)
        else:
            powers = [
                math.exp((block.unary.weight[0, :, 0, 0] @ each + block.unary.bias[0]).item()) for each in positions
            ]
        for power, position in zip(powers, positions, strict=True):
            summary[image] += power / sum(powers) * position
    return summary


def transformed(transform: torch.nn.Sequential, summary: Tensor) -> Tensor:
    """W2 relu(LN(W1 s)): `b c 1 1`."""
    first, norm, _, last = transform
    inner = summary @ first.weight[:, :, 0, 0].T + first.bias
    mean, var = inner.mean(dim=1, keepdim=True), inner.var(dim=1, keepdim=True, unbiased=False)
    inner = (inner - mean) / (var + norm.eps).sqrt() * norm.weight[:, 0, 0] + norm.bias[:, 0, 0]
    return (inner.clamp(min=0) @ last.weight[:, :, 0, 0].T + last.bias)[:, :, None, None]


@pytest.mark.parametrize("pooling", ["attention", "mean"])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("b", [1, 2])
@torch.no_grad()
def test_every_position_gets_the_transformed_summary(b: int, fusion: str, pooling: str) -> None:
    block = awake_block(fusion=fusion, pooling=pooling, inner_channels=3)
    x = torch.randn(b, 8, 7, 11, dtype=torch.float64)
    summary, expected = summary_by_loops(block, x), x
    if fusion != "add":
        expected = expected / (1 + (-transformed(block.multiply, summary)).exp())
    if fusion != "multiply":
        expected = expected + transformed(block.add, summary)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("fusion", "factor"), [("add", 1.0), ("multiply", 0.5), ("both", 0.5)])
def test_a_new_block_that_adds_is_the_identity_and_one_that_multiplies_halves(fusion: str, factor: float) -> None:
    block = GlobalContextBlock(8, GlobalContextConfig(fusion=fusion))
    initialise(block, 0)
    x = torch.randn(2, 8, 7, 11)
    assert torch.equal(block(x), factor * x)


@pytest.mark.parametrize("pooling", ["attention", "mean"])
@torch.no_grad()
def test_all_positions_share_one_row(pooling: str) -> None:
    torch.manual_seed(0)
    head = GCHead(GCHeadConfig(channels=8, pooling=pooling), (0, 0, 0, 6), 3).eval().double()
    stages: list[Any] = [None, None, None, torch.randn(2, 6, 7, 11, dtype=torch.float64)]
    (hop,) = attention_rows(head, stages, [(3, 9)]).hops
    (other,) = attention_rows(head, stages, [(0, 0)]).hops
    assert torch.equal(hop.rows, other.rows)
    assert hop.rows.shape == (2, 1, 7, 11)
    assert not hop.is_signed
    torch.testing.assert_close(hop.rows.sum(dim=(2, 3)), torch.ones(2, 1, dtype=torch.float64))
    summary = summary_by_loops(head.shell.context, head.shell.before_context(stages[3]))
    torch.testing.assert_close(hop.aggregate(), summary[..., None])
    is_uniform = torch.allclose(hop.rows, torch.full_like(hop.rows, 1 / 77))
    assert is_uniform is (pooling == "mean")


def test_the_default_has_the_parameters_of_its_layers() -> None:
    head = GCHead(GCHeadConfig(), (256, 512, 1024, 2048), 19)
    shell = (2048 * 512 + 512 * 512 + (2048 + 512) * 512) * 9 + 3 * 2 * 512
    score, transform = 512 + 1, (512 * 128 + 128) + 2 * 128 + (128 * 512 + 512)
    assert sum(each.numel() for each in head.parameters()) == shell + score + transform


def test_there_are_a_quarter_of_the_channels_inside_and_at_least_one() -> None:
    assert GlobalContextBlock(8, GlobalContextConfig()).add[0].out_channels == 2
    assert GlobalContextBlock(3, GlobalContextConfig()).add[0].out_channels == 1


@pytest.mark.parametrize("wrong", [{"fusion": "divide"}, {"pooling": "max"}, {"inner_channels": 0}])
def test_invalid_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        GCHeadConfig(**wrong)
