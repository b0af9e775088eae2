import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from segnl.models.heads.base import attention_rows
from segnl.models.heads.da import ChannelAttention, DAConfig, DAHead, PositionAttention
from segnl.models.initialisation import initialise


def head_of(**settings: Any) -> DAHead:
    torch.manual_seed(0)
    cfg = DAConfig(channels=8, leaky_slope=0.5, **settings)  # nothing is cut off on the way
    return DAHead(cfg, (0, 0, 0, 6), 3).double().eval()


def stages(b: int = 2) -> list[Any]:
    torch.manual_seed(1)
    return [None, None, None, torch.randn(b, 6, 7, 11, dtype=torch.float64)]


def positions_by_loops(block: PositionAttention, x: Tensor) -> Tensor:
    """Every position asks all, scores as they are: `b c h w`."""
    attention, out = block.attention, torch.zeros_like(x)

    def projected(conv: torch.nn.Conv2d, position: Tensor) -> Tensor:
        return conv.weight[:, :, 0, 0] @ position + conv.bias

    for image in range(x.shape[0]):
        positions = x[image].flatten(1).unbind(1)
        keys = [projected(attention.key, each) for each in positions]
        values = [projected(attention.value, each) for each in positions]
        for i, position in enumerate(positions):
            query = projected(attention.query, position)
            powers = [math.exp((query @ key).item()) for key in keys]
            gathered = sum(power * value for power, value in zip(powers, values, strict=True)) / sum(powers)
            out[image, :, i // x.shape[3], i % x.shape[3]] = gathered
    return out


def channels_by_loops(x: Tensor) -> Tensor:
    """Every channel asks all: the largest likeness less the likeness, then a softmax."""
    out = torch.zeros_like(x)
    for image in range(x.shape[0]):
        for asking in range(x.shape[1]):
            likeness = torch.stack([(x[image, asking] * other).sum() for other in x[image]])
            weights = (likeness.max() - likeness).softmax(dim=0)
            out[image, asking] = sum(weight * other for weight, other in zip(weights, x[image], strict=True))
    return out


@pytest.mark.parametrize("b", [1, 2])
@torch.no_grad()
def test_each_branch_adds_gamma_times_its_attention(b: int) -> None:
    x = torch.randn(b, 8, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 3
    position = PositionAttention(8, DAConfig(gamma_init=0.5, inner_channels=3)).double()
    torch.testing.assert_close(position(x), x + 0.5 * positions_by_loops(position, x))
    channel = ChannelAttention(DAConfig(gamma_init=0.25)).double()
    torch.testing.assert_close(channel(x), x + 0.25 * channels_by_loops(x))


@torch.no_grad()
def test_a_new_head_adds_two_branches_of_convolutions() -> None:
    head, x = head_of(), stages()[3]
    initialise(head, 0)
    expected = head.position[2](head.position[0](x)) + head.channel[2](head.channel[0](x))
    assert torch.equal(head(stages()).context, expected)


@torch.no_grad()
def test_initialising_gives_both_gammas_the_value_of_the_recipe() -> None:
    head = head_of(gamma_init=0.5)
    head.position[1].gamma.scale.fill_(9)
    initialise(head, 0)
    assert [head.position[1].gamma.scale.item(), head.channel[1].gamma.scale.item()] == [0.5, 0.5]


@torch.no_grad()
def test_branches_have_their_own_logits_in_training_only() -> None:
    head = head_of(branch_weight=0.3, branch_dropout=0.0)
    assert head.aux_weights == {"position": 0.3, "channel": 0.3}
    assert head(stages()).aux_logits == {}
    branches = {}
    for name in ("position", "channel"):
        getattr(head, name).register_forward_hook(lambda _, __, out, name=name: branches.update({name: out}))
    out = head.train()(stages())
    assert list(out.aux_logits) == ["position", "channel"]
    for name, logits in out.aux_logits.items():
        assert torch.equal(logits, head.classifiers[name](branches[name]))
    assert torch.equal(out.context, branches["position"] + branches["channel"])


@torch.no_grad()
def test_branch_dropout_drops_whole_channels() -> None:
    head, seen = head_of(branch_dropout=0.5).train(), []
    for branch in (head.position, head.channel):
        branch[2].norm.bias.fill_(100.0)  # no zero comes from the activation
    for classifier in head.classifiers.values():
        classifier.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    context = head(stages()).context
    assert (context > 0).all()
    for given in seen:
        assert set((given == 0).double().mean(dim=(2, 3)).flatten().tolist()) == {0.0, 1.0}


@torch.no_grad()
def test_a_row_times_its_values_is_the_positions_context() -> None:
    head = head_of()
    (hop,) = attention_rows(head, stages(), [(3, 9), (6, 0)]).hops
    assert hop.rows.shape == (2, 2, 7, 11)
    assert not hop.is_signed
    torch.testing.assert_close(hop.rows.sum(dim=(2, 3)), torch.ones(2, 2, dtype=torch.float64))
    gathered = positions_by_loops(head.position[1], head.position[0](stages()[3]))
    torch.testing.assert_close(hop.aggregate(), gathered[:, :, [3, 6], [9, 0]])


def test_the_default_has_the_parameters_of_its_layers() -> None:
    head = DAHead(DAConfig(), (256, 512, 1024, 2048), 19)
    convs = 2 * ((2048 + 512) * 512 * 9 + 2 * 2 * 512)
    attention, gammas = 2 * (512 * 64 + 64) + (512 * 512 + 512), 2
    classifiers = 2 * (512 * 19 + 19)
    assert sum(each.numel() for each in head.parameters()) == convs + attention + gammas + classifiers


@pytest.mark.parametrize("wrong", [{"branch_weight": -1.0}, {"branch_dropout": 1.0}, {"inner_channels": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DAConfig(**wrong)
