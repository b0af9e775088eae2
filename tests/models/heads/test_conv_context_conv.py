import pytest
import torch
from torch import nn

from segnl.models.heads.base import ConvContextConv
from segnl.models.heads.fcn import FCNConfig


class Doubling(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_the_context_block_follows_the_first_convolution() -> None:
    torch.manual_seed(0)
    shell = ConvContextConv(FCNConfig(channels=8), 6, Doubling()).eval()
    x = torch.randn(2, 6, 7, 11)
    by_hand = shell.convs[1](2 * shell.convs[0](x))
    torch.testing.assert_close(shell(x), shell.conv_cat(torch.cat([x, by_hand], dim=1)))


def test_without_concatenation_there_is_no_further_convolution() -> None:
    shell = ConvContextConv(FCNConfig(channels=8, concat_input=False, num_convs=3), 6, nn.Identity()).eval()
    x = torch.randn(1, 6, 7, 11)
    assert torch.equal(shell(x), shell.convs[2](shell.convs[1](shell.convs[0](x))))
    assert shell.out_channels == 8


def test_last_channels_sets_the_output_channels() -> None:
    shell = ConvContextConv(FCNConfig(channels=8, last_channels=5), 6, nn.Identity())
    assert shell(torch.randn(2, 6, 7, 11)).shape == (2, 5, 7, 11)
    assert shell.out_channels == 5


def test_without_convolutions_the_block_gets_the_stage() -> None:
    shell = ConvContextConv(FCNConfig(channels=6, num_convs=0, concat_input=False), 6, Doubling())
    x = torch.randn(1, 6, 7, 11)
    assert torch.equal(shell(x), 2 * x)


def test_without_convolutions_the_channels_cannot_change() -> None:
    with pytest.raises(ValueError, match="expected the stage's 6"):
        ConvContextConv(FCNConfig(channels=8, num_convs=0), 6, nn.Identity())


def test_paths_do_not_depend_on_the_context() -> None:
    cfg = FCNConfig(channels=8)
    plain, other = ConvContextConv(cfg, 6, nn.Identity()), ConvContextConv(cfg, 6, nn.Conv2d(8, 8, 1))
    extra = set(other.state_dict()) - set(plain.state_dict())
    assert extra == {"context.weight", "context.bias"}
