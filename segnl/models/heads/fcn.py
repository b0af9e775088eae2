"""The control of comparisons: the layout of non_local, dnl, gc and rcca without a context block.

Source: fully convolutional networks, Long et al. 2015, arXiv:1411.4038, in mmsegmentation's form.
"""

from collections.abc import Sequence

from torch import nn

from segnl.models.heads.base import ConvContextConvHead, ConvContextConvHeadConfig


class FCNConfig(ConvContextConvHeadConfig):
    """Settings of the head."""

    name: str = "fcn"


class FCNHead(ConvContextConvHead):
    """Convolutions alone: the context is what their receptive field covers."""

    Config = FCNConfig

    def __init__(self, cfg: FCNConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes, nn.Identity())


HEAD = FCNHead
