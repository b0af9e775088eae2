import pytest
import torch

from segnl.models.blocks.criss_cross import CrissCrossBlock, CrissCrossConfig
from segnl.models.initialisation import initialise
from segnl.ops.criss_cross import criss_cross_context


def test_a_block_with_gamma_zero_is_the_identity_bit_for_bit() -> None:
    x = torch.randn(2, 16, 7, 11)
    assert torch.equal(CrissCrossBlock(16, CrissCrossConfig())(x), x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("b", [1, 2])
def test_a_hop_adds_gamma_times_the_context(b: int, layout: torch.memory_format) -> None:
    block = CrissCrossBlock(16, CrissCrossConfig(recurrence=1, gamma_init=0.5)).double()
    x = torch.randn(b, 16, 7, 11, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    context = criss_cross_context(block.query_conv(x), block.key_conv(x), block.value_conv(x))
    expected = x + block.gamma(context)
    torch.testing.assert_close(block.aggregate(x), context)
    torch.testing.assert_close(block(x), expected)
    given, wanted = torch.randn_like(x), (x, *block.parameters())
    ours = torch.autograd.grad(block(x), wanted, given)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, wanted, given))


def test_gamma_learns_from_its_first_step() -> None:
    block = CrissCrossBlock(16, CrissCrossConfig(recurrence=1))
    block(torch.randn(2, 16, 7, 11)).pow(2).sum().backward()
    assert block.gamma.scale.grad is not None
    assert block.gamma.scale.grad.abs() > 0


@pytest.mark.parametrize("b", [1, 2])
def test_a_block_compiles_in_one_graph(b: int) -> None:
    block = CrissCrossBlock(16, CrissCrossConfig(gamma_init=0.5)).double()
    x = torch.randn(b, 16, 7, 11, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, block(x))
    torch.testing.assert_close(*(torch.autograd.grad(y.sin().sum(), x)[0] for y in (compiled, block(x))))


def test_hops_share_their_weights_and_their_number_may_change() -> None:
    block = CrissCrossBlock(16, CrissCrossConfig(recurrence=3, gamma_init=0.5))
    x = torch.randn(2, 16, 7, 11)
    assert torch.equal(block(x), block.hop(block.hop(block.hop(x))))
    other = CrissCrossBlock(16, CrissCrossConfig(recurrence=1))
    other.load_state_dict(block.state_dict())
    other.recurrence = 3
    assert torch.equal(other(x), block(x))


def test_initialising_gives_gamma_the_value_of_the_recipe() -> None:
    block = CrissCrossBlock(16, CrissCrossConfig(gamma_init=0.25))
    initialise(block, 0)
    assert block.gamma.scale.item() == 0.25


def test_query_and_key_have_an_eighth_of_the_channels() -> None:
    assert CrissCrossBlock(64, CrissCrossConfig()).query_conv.out_channels == 8
    assert CrissCrossBlock(4, CrissCrossConfig()).key_conv.out_channels == 1
