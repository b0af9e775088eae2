"""Recurrent criss-cross attention in the shell: after two hops every position has gathered from all others.

Source: CCNet, Huang et al. 2019, arXiv:1811.11721.
"""

from collections.abc import Sequence

from torch import Tensor

from segnl.models.blocks.attention_rows import AttentionRows
from segnl.models.blocks.criss_cross import CrissCrossBlock, CrissCrossConfig
from segnl.models.blocks.shell import Shell, ShellConfig
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput


class RCCAConfig(HeadConfig, ShellConfig, CrissCrossConfig):
    """Settings of the head."""

    name: str = "rcca"


class RCCAHead(ContextHead):
    """With gamma 0 it computes what `fcn` computes, bit for bit; the number of hops may be changed at evaluation."""

    Config = RCCAConfig

    def __init__(self, cfg: RCCAConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        self.shell = Shell(cfg, self.in_channels, CrissCrossBlock(cfg.channels, cfg))
        self.out_channels = self.shell.out_channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """stages: c2..c5. Returns the context `b d h w`."""
        return HeadOutput(self.shell(self.gather(stages)))

    def attend(self, stages: Sequence[Tensor], pixel: tuple[int, int]) -> AttentionRows:
        """The rows of one position."""
        return self.shell.attend(self.gather(stages), pixel)


HEAD = RCCAHead
