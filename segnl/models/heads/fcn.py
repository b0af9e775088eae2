"""The control: the shell of non_local, dnl, gc and rcca with nothing between its convolutions.

Source: fully convolutional networks, Long et al. 2015, arXiv:1411.4038, in mmsegmentation's shape.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from segnl.models.blocks.conv_context_conv import ConvContextConv, ConvContextConvConfig
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput


class FCNConfig(HeadConfig, ConvContextConvConfig):
    """Settings of the head."""

    name: str = "fcn"


class FCNHead(ContextHead):
    """Convolutions alone: the context is what their receptive field covers."""

    Config = FCNConfig

    def __init__(self, cfg: FCNConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        self.shell = ConvContextConv(cfg, self.in_channels, nn.Identity())
        self.out_channels = self.shell.out_channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """stages: c2..c5. Returns the context `b d h w`."""
        return HeadOutput(self.shell(self.gather(stages)))


HEAD = FCNHead
