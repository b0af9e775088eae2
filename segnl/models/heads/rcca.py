"""Recurrent criss-cross attention head: two hops connect every position with all others.

Source: CCNet, Huang et al. 2019, arXiv:1811.11721.
"""

from collections.abc import Sequence

from segnl.models.blocks.criss_cross import CrissCrossBlock, CrissCrossConfig
from segnl.models.heads.base import ConvContextConvHead, ConvContextConvHeadConfig


class RCCAConfig(ConvContextConvHeadConfig, CrissCrossConfig):
    """Settings of the head."""

    name: str = "rcca"


class RCCAHead(ConvContextConvHead):
    """FCN-style head around the block; with gamma 0 it computes exactly the same as `fcn`."""

    Config = RCCAConfig

    def __init__(self, cfg: RCCAConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes, CrissCrossBlock(cfg.channels, cfg))


HEAD = RCCAHead
