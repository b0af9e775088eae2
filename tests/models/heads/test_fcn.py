import torch
from torch import nn

from segnl.models.heads.fcn import FCNConfig, FCNHead


def test_fcn_is_the_layout_without_a_context_block() -> None:
    head = FCNHead(FCNConfig(channels=8), (0, 0, 0, 6), 3).eval()
    assert isinstance(head.shell.context, nn.Identity)
    x = torch.randn(1, 6, 7, 11)
    assert torch.equal(head([None, None, None, x]).context, head.shell(x))
