import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from segnl.models.blocks.conv import Pointwise
from segnl.models.heads.base import attention_rows
from segnl.models.heads.dnl import DisentangledBlock, DisentangledConfig, DNLHead, DNLHeadConfig
from segnl.models.initialisation import initialise


def awake_block(*, has_norm: bool = True, **settings: Any) -> DisentangledBlock:
    torch.manual_seed(0)
    block = DisentangledBlock(6, DisentangledConfig(**settings), has_norm=has_norm).double().eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return block


def weighed(powers: list[float], values: list[Tensor]) -> Tensor:
    return sum(power * value for power, value in zip(powers, values, strict=True)) / sum(powers)


def by_loops(block: DisentangledBlock, x: Tensor, factor: float | None) -> Tensor:
    """Both sums of one asking position after another, `b d n`; factor: of softmax scores, None for dot products."""

    def embedded(layer: Pointwise, positions: list[Tensor]) -> list[Tensor]:
        return [layer.weight[:, :, 0, 0] @ each + layer.bias for each in positions]

    def whitened(maps: list[Tensor]) -> list[Tensor]:
        return [each - sum(maps) / len(maps) for each in maps]

    out = []
    for image in x:
        positions = list(image.flatten(1).unbind(1))
        theta, phi = (whitened(embedded(layer, positions)) for layer in (block.theta, block.phi))
        g, n = embedded(block.g, positions), len(positions)
        unary = [math.exp((block.unary.weight[0, :, 0, 0] @ each + block.unary.bias[0]).item()) for each in positions]
        for i in range(n):
            scores = [(theta[i] @ phi[j]).item() for j in range(n)]
            if factor is None:
                pairs = sum(score * value for score, value in zip(scores, g, strict=True)) / n
            else:
                pairs = weighed([math.exp(factor * score) for score in scores], g)
            out.append(pairs + weighed(unary, g))
    return torch.stack(out).unflatten(0, (x.shape[0], -1)).transpose(1, 2)


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"temperature": 0.5}, 3**-0.5 / 0.5),  # three channels inside
        ({"temperature": 2.0, "use_scale": False}, 1 / 2.0),
        ({"pairwise": "dot_product"}, None),
    ],
)
@pytest.mark.parametrize("has_norm", [True, False])
@torch.no_grad()
def test_the_block_adds_whitened_pairs_and_the_sum_shared_by_all(
    settings: dict[str, Any], factor: float | None, has_norm: bool
) -> None:
    block = awake_block(has_norm=has_norm, **settings)
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    gathered = by_loops(block, x, factor)
    torch.testing.assert_close(block.context(x), gathered)
    y = torch.einsum("cd,bdn->bcn", block.w_z.weight[:, :, 0, 0], gathered).unflatten(2, (5, 7))
    y = y if block.w_z.bias is None else y + block.w_z.bias[:, None, None]
    torch.testing.assert_close(block(x), x + block.norm(y))


@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "dot_product"])
def test_a_new_block_is_the_identity(pairwise: str, has_norm: bool) -> None:
    block = DisentangledBlock(6, DisentangledConfig(pairwise=pairwise), has_norm=has_norm)
    initialise(block, 0)
    x = torch.randn(2, 6, 7, 11)
    assert torch.equal(block(x), x)


def test_the_published_scale_includes_the_temperature() -> None:
    assert DisentangledBlock(512, DisentangledConfig()).scale == pytest.approx(20 / 16)


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "dot_product"])
@torch.no_grad()
def test_both_hops_times_their_values_are_the_two_sums(pairwise: str) -> None:
    torch.manual_seed(0)
    head = DNLHead(DNLHeadConfig(channels=6, pairwise=pairwise), (0, 0, 0, 6), 3).eval().double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    stages: list[Any] = [None, None, None, torch.randn(2, 6, 7, 11, dtype=torch.float64)]
    block, x = head.shell.context, head.shell.before_context(stages[3])
    pairs, shared = attention_rows(head, stages, [(3, 9), (6, 0)]).hops
    both = block.context(x).unflatten(2, (7, 11))[:, :, [3, 6], [9, 0]]
    of_pairs = block.aggregate(x).unflatten(2, (7, 11))[:, :, [3, 6], [9, 0]]
    torch.testing.assert_close(pairs.aggregate(), of_pairs)
    torch.testing.assert_close(shared.aggregate(), both - of_pairs)
    assert torch.equal(attention_rows(head, stages, [(0, 0)]).hops[1].rows, shared.rows[:, :1])
    assert not shared.is_signed
    assert pairs.is_signed is (pairwise == "dot_product")
    for hop in [shared] if pairs.is_signed else [pairs, shared]:
        torch.testing.assert_close(hop.rows.sum(dim=(2, 3)), torch.ones(2, 2, dtype=torch.float64))


def test_the_default_has_the_parameters_of_its_layers() -> None:
    head = DNLHead(DNLHeadConfig(), (256, 512, 1024, 2048), 19)
    shell = (2048 * 512 + 512 * 512 + (2048 + 512) * 512) * 9 + 3 * 2 * 512
    embeddings, w_z, unary = 3 * (512 * 256 + 256), 256 * 512 + 2 * 512, 512 + 1
    assert sum(each.numel() for each in head.parameters()) == shell + embeddings + w_z + unary


@pytest.mark.parametrize("wrong", [{"subsample": True}, {"pairwise": "gaussian"}, {"temperature": 0.0}])
def test_settings_that_this_block_does_not_have_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DNLHeadConfig(**wrong)
