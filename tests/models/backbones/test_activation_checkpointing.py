import copy

import torch
from torch import nn

from segnl.models.backbones.base import checkpointed
from segnl.models.backbones.resnet import Bottleneck, ResNetConfig


def trained_once(block: nn.Module, *, is_checkpointed: bool) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    block = copy.deepcopy(block).train()
    x = torch.randn(2, 8, 7, 11, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = checkpointed(block, x) if is_checkpointed else block(x)
    out.square().sum().backward()
    return block, out.detach(), x.grad


def test_checkpointing_changes_no_bit_of_gradients_and_running_statistics() -> None:
    torch.manual_seed(0)
    block = Bottleneck(8, 4, 1, 2, ResNetConfig(zero_init_residual=False))
    plain, plain_out, plain_grad = trained_once(block, is_checkpointed=False)
    ours, out, grad = trained_once(block, is_checkpointed=True)
    assert torch.equal(out, plain_out)
    assert torch.equal(grad, plain_grad)
    for (name, a), (_, b) in zip(plain.named_parameters(), ours.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for name, value in plain.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name
    assert ours.bn1.num_batches_tracked == 1
    assert ours.bn1.momentum == 0.1


def test_checkpointing_stores_less_for_backward() -> None:
    def kept(*, is_checkpointed: bool) -> int:
        numbers = []

        def note(tensor: torch.Tensor) -> torch.Tensor:
            numbers.append(tensor.numel())
            return tensor

        block, x = Bottleneck(8, 4, 1, 1, ResNetConfig()).train(), torch.randn(1, 8, 9, 9, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            checkpointed(block, x) if is_checkpointed else block(x)
        return sum(numbers)

    assert kept(is_checkpointed=True) <= 8 * 9 * 9 < kept(is_checkpointed=False)
