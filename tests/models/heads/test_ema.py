from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from segnl.models.heads.ema import Bases, EMAConfig, EMAHead
from segnl.models.initialisation import initialise
from segnl.models.norm import set_process_group


@dataclass
class TwoRanks:
    """What this rank sees of two: the other's value is added to its own."""

    other: Tensor
    world: int = 2

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        return value + self.other


def bases_of(**settings: Any) -> Bases:
    torch.manual_seed(0)
    return Bases(5, EMAConfig(num_bases=3, **settings)).double()


def head_of(**settings: Any) -> EMAHead:
    torch.manual_seed(0)
    settings = {"leaky_slope": 0.5} | settings  # nothing is cut off on the way
    return EMAHead(EMAConfig(channels=4, num_bases=3, **settings), (0, 0, 0, 6), 3).double()


def map_of(b: int, c: int = 5) -> Tensor:
    return torch.randn(b, c, 7, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def found_by_steps(x: Tensor, bases: Tensor, num_steps: int) -> tuple[Tensor, Tensor]:
    """The paper's steps on one image `c h w` from bases `c r`: the map rebuilt and the bases found."""
    positions = x.flatten(1)  # c n
    for _ in range(num_steps):
        shares = torch.stack([(position @ bases).softmax(dim=0) for position in positions.T])  # n r
        means = [(positions * share).sum(dim=1) / share.sum() for share in shares.T]
        bases = torch.stack([mean / mean.norm() for mean in means], dim=1)
    return (bases @ shares.T).view_as(x), bases


@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize("b", [1, 2])
def test_every_image_starts_from_the_moving_average_of_the_bases(b: int, num_steps: int) -> None:
    bases, x = bases_of(num_steps=num_steps).eval(), map_of(b)
    expected = torch.stack([found_by_steps(image, bases.bases[0], num_steps)[0] for image in x])
    torch.testing.assert_close(bases(x), expected)


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_training_moves_the_bases_towards_the_batchs_mean_by_the_momentum(momentum: float) -> None:
    bases, x = bases_of(momentum=momentum).train(), map_of(2)
    before = bases.bases.clone()
    mean = sum(found_by_steps(image, before[0], 3)[1] for image in x) / 2
    bases(x)
    expected = (1 - momentum) * before[0] + momentum * mean / mean.norm(dim=0)
    torch.testing.assert_close(bases.bases[0], expected)


def test_evaluation_does_not_move_the_bases() -> None:
    bases = bases_of().eval()
    before = bases.bases.clone()
    bases(map_of(2))
    assert torch.equal(bases.bases, before)


def test_two_ranks_have_the_bases_of_one_rank_with_all_images() -> None:
    alone, first = bases_of().train(), bases_of().train()
    x = map_of(4)
    of_others = sum(found_by_steps(image, first.bases[0], 3)[1] for image in x[2:])
    set_process_group(first, TwoRanks(of_others[None]))  # type: ignore[arg-type]
    alone(x)
    first(x[:2])
    torch.testing.assert_close(first.bases, alone.bases)
    assert not torch.equal(first.bases, bases_of().bases)


def test_initial_bases_have_length_one_and_are_drawn_from_the_seed() -> None:
    first, second, other = bases_of(), bases_of(), bases_of()
    first.bases.zero_()
    for bases, seed in ((first, 0), (second, 0), (other, 1)):
        initialise(bases, seed)
    torch.testing.assert_close(first.bases.norm(dim=1), torch.ones(1, 3, dtype=torch.float64))
    assert torch.equal(first.bases, second.bases)
    assert not torch.equal(first.bases, other.bases)


def test_a_checkpoint_holds_the_bases() -> None:
    assert "rebuild.bases" in head_of().state_dict()


@pytest.mark.parametrize("concat_input", [True, False])
@torch.no_grad()
def test_the_reconstruction_is_added_to_the_map(concat_input: bool) -> None:
    head, stage = head_of(concat_input=concat_input, inner_channels=5).eval(), map_of(2, 6)
    reduced = head.reduce(stage)
    given = head.before(reduced)
    rebuilt = torch.stack([found_by_steps(image, head.rebuild.bases[0], 3)[0] for image in given])
    out = head.narrow((reduced + head.after(rebuilt.clamp(min=0))).clamp(min=0))
    expected = head.conv_cat(torch.cat([stage, out], dim=1)) if concat_input else out
    torch.testing.assert_close(head([None, None, None, stage]).context, expected)


@torch.no_grad()
def test_relu_follows_the_sum_and_not_the_reconstruction() -> None:
    head, added, summed = head_of(leaky_slope=0.0).eval(), [], []
    head.after.register_forward_hook(lambda _, __, out: added.append(out.clone()))
    head.narrow.register_forward_hook(lambda _, inputs, __: summed.append(inputs[0]))
    head([None, None, None, map_of(2, 6)])
    assert (added[0] < 0).any()
    assert (summed[0] >= 0).all()


def test_no_gradient_flows_through_the_reconstruction() -> None:
    head, stage = head_of().eval(), map_of(2, 6).requires_grad_()
    seen: list[Tensor] = []
    head.rebuild.register_forward_hook(lambda _, __, out: seen.append(out))
    given = torch.randn(2, 4, 7, 11, dtype=torch.float64)
    wanted = (stage, head.reduce.conv.weight, head.after.conv.weight)
    ours = torch.autograd.grad(head([None, None, None, stage]).context, wanted, given)
    assert not seen[0].requires_grad
    assert not head.before.weight.requires_grad
    assert not head.before.bias.requires_grad
    head.rebuild.register_forward_hook(lambda _, __, ___: seen[0])  # a constant in the place of the steps
    expected = torch.autograd.grad(head([None, None, None, stage]).context, wanted, given)
    torch.testing.assert_close(ours, expected)


def test_the_default_has_the_parameters_of_its_layers() -> None:
    head = EMAHead(EMAConfig(), (256, 512, 1024, 2048), 19)
    reduce, before = 2048 * 512 * 9 + 2 * 512, 512 * 512 + 512
    after, narrow = 512 * 512 + 2 * 512, 512 * 256 * 9 + 2 * 256
    conv_cat = (2048 + 256) * 256 * 9 + 2 * 256
    assert sum(each.numel() for each in head.parameters()) == reduce + before + after + narrow + conv_cat
    assert head.rebuild.bases.shape == (1, 512, 64)


@pytest.mark.parametrize("wrong", [{"momentum": 1.5}, {"momentum": -0.1}, {"num_steps": 0}, {"num_bases": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        EMAConfig(**wrong)
