from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from segnl.models.blocks import projected_attention
from segnl.models.heads.ann import ANNConfig, ANNHead, PooledAttention
from segnl.models.heads.base import attention_rows
from segnl.models.initialisation import initialise
from segnl.ops.non_local import softmax_context


def head_of(**settings: Any) -> ANNHead:
    torch.manual_seed(0)
    settings = {"leaky_slope": 0.5} | settings  # nothing is cut off on the way
    head = ANNHead(ANNConfig(channels=8, bins=(1, 3), **settings), (0, 0, 5, 6), 3).double().eval()
    initialise(head, 0)
    return head


def awake(head: ANNHead) -> ANNHead:
    for name, tensor in head.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("var") else torch.randn_like(tensor) / 3)
    return head


def stages(b: int = 2, low_hw: tuple[int, int] = (7, 11)) -> list[Any]:
    torch.manual_seed(1)
    low, high = (torch.randn(b, c, *hw, dtype=torch.float64) for c, hw in ((5, low_hw), (6, (7, 11))))
    return [None, None, low, high]


def pooled(x: Tensor, bins: tuple[int, ...]) -> Tensor:
    return torch.cat([F.adaptive_avg_pool2d(x, s).flatten(2) for s in bins], dim=2)  # b c r


def by_loops(block: PooledAttention, asking: Tensor, answering: Tensor) -> Tensor:
    """One asking position after another gathers from the means of the pyramid."""
    attention = block.attention
    query, make_key = attention.query(asking), attention.key or attention.query
    key, value = pooled(make_key(answering), attention.bins), pooled(attention.value(answering), attention.bins)
    gathered = torch.zeros(value.shape[0], value.shape[1], *asking.shape[2:], dtype=torch.float64)
    for image in range(asking.shape[0]):
        for row in range(asking.shape[2]):
            for column in range(asking.shape[3]):
                scores = torch.stack([query[image, :, row, column] @ each for each in key[image].T])
                shares = (scores / query.shape[1] ** 0.5).softmax(dim=0)
                gathered[image, :, row, column] = sum(s * v for s, v in zip(shares, value[image].T, strict=True))
    return block.join(torch.cat([block.out(gathered), asking], dim=1))


@pytest.mark.parametrize(("b", "low_hw"), [(2, (7, 11)), (1, (13, 21))])
@torch.no_grad()
def test_attention_to_the_earlier_stages_means_then_self_attention(b: int, low_hw: tuple[int, int]) -> None:
    head, maps = awake(head_of()), stages(b, low_hw)
    x = head.reduce(by_loops(head.fusion, maps[3], maps[2]))
    torch.testing.assert_close(head(maps).context, by_loops(head.itself, x, x))


@torch.no_grad()
def test_the_first_input_stage_gives_keys_and_the_second_queries() -> None:
    torch.manual_seed(0)
    head = ANNHead(ANNConfig(channels=8, in_stages=(0, 1)), (5, 6), 3).double().eval()
    _, _, low, high = stages()
    x = head.reduce(by_loops(head.fusion, high, low))
    torch.testing.assert_close(head([low, high]).context, by_loops(head.itself, x, x))


def test_only_the_second_attention_ties_query_and_key() -> None:
    head = head_of()
    assert head.fusion.attention.key is not None
    assert head.itself.attention.key is None


def test_both_attentions_have_110_keys_for_any_map_size(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Size] = []

    def watched(theta: Tensor, phi: Tensor, g: Tensor, *, scale: float) -> Tensor:
        seen.extend([phi.shape, g.shape])
        return softmax_context(theta, phi, g, scale=scale)

    monkeypatch.setattr(projected_attention, "softmax_context", watched)
    head = ANNHead(ANNConfig(channels=8), (0, 0, 5, 6), 3).double().eval()
    head(stages(low_hw=(13, 21)))
    assert seen == [(2, 4, 1 + 9 + 36 + 64)] * 4


@torch.no_grad()
def test_in_a_new_head_the_key_stage_has_no_effect() -> None:
    head, maps = head_of(), stages()
    fused = head.fusion.join(torch.cat([torch.zeros_like(maps[3]), maps[3]], dim=1))
    x = head.reduce(fused)
    expected = head.itself.join(torch.cat([torch.zeros_like(x), x], dim=1))
    assert torch.equal(head(maps).context, expected)
    assert torch.equal(head([None, None, maps[2] + 1, maps[3]]).context, expected)
    assert not torch.equal(awake(head)(maps).context, head([None, None, maps[2] + 1, maps[3]]).context)


def test_the_zero_projections_get_gradients_in_the_first_step() -> None:
    head = head_of().train()
    head(stages()).context.square().sum().backward()
    for block in (head.fusion, head.itself):
        assert not block.out.weight.any()
        assert block.out.weight.grad.abs().max() > 0


@torch.no_grad()
def test_only_the_second_attention_ends_with_an_activation() -> None:
    head, maps = awake(head_of(leaky_slope=0.0)), stages()
    assert (head.fusion(maps[3], maps[2]) < 0).any()
    assert (head(maps).context >= 0).all()


@torch.no_grad()
def test_dropout_takes_whole_channels_between_the_attentions_in_training_only() -> None:
    head, seen = head_of(fusion_dropout=0.5), []
    head.reduce.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    head(stages())
    head.train()(stages())
    assert (seen[0] != 0).all()
    assert set((seen[1] == 0).double().mean(dim=(2, 3)).flatten().tolist()) == {0.0, 1.0}


def test_the_default_has_the_parameters_of_its_layers() -> None:
    head = ANNHead(ANNConfig(), (256, 512, 1024, 2048), 19)
    query, key, value = 2048 * 256 + 2 * 256, 1024 * 256 + 2 * 256, 1024 * 256 + 256
    fusion = query + key + value + (256 * 2048 + 2048) + (2 * 2048 * 2048 + 2 * 2048)
    reduce = 2048 * 512 * 9 + 2 * 512
    shared, value = 512 * 256 + 2 * 256, 512 * 256 + 256
    itself = shared + value + (256 * 512 + 512) + (2 * 512 * 512 + 2 * 512)
    assert sum(each.numel() for each in head.parameters()) == fusion + reduce + itself


@pytest.mark.parametrize(
    "wrong", [{"in_stages": (3,)}, {"in_stages": (1, 2, 3)}, {"bins": ()}, {"bins": (0,)}, {"fusion_dropout": 1.0}]
)
def test_invalid_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ANNConfig(**wrong)


def test_a_stage_that_the_backbone_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"in_stages: 3; expected 0 \(c2\) to 2"):
        ANNHead(ANNConfig(), (4, 5, 6), 3)


@torch.no_grad()
def test_a_row_spread_over_the_cells_positions_times_their_values_is_the_context() -> None:
    head, maps = awake(head_of()), stages(2, (13, 21))
    itself, fusion = attention_rows(head, maps, [(3, 9), (6, 0)]).hops
    x = head.reduce(head.fusion(maps[3], maps[2]))
    at = (slice(None), slice(None), [3, 6], [9, 0])
    torch.testing.assert_close(fusion.aggregate(), head.fusion.attention(maps[3], maps[2])[at])
    torch.testing.assert_close(itself.aggregate(), head.itself.attention(x, x)[at])
    assert fusion.rows.shape == (2, 2, 13, 21)
    assert itself.rows.shape == (2, 2, 7, 11)
    torch.testing.assert_close(fusion.rows.sum(dim=(2, 3)), torch.ones(2, 2, dtype=torch.float64))
