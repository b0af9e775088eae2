"""Non-local head: attention from every position to all positions.

Source: Non-local Neural Networks, Wang et al. 2018, arXiv:1711.07971.
"""

from collections.abc import Sequence

from segnl.models.blocks.non_local import NonLocalBlock, NonLocalConfig
from segnl.models.heads.base import ConvContextConvHead, ConvContextConvHeadConfig


class NonLocalHeadConfig(ConvContextConvHeadConfig, NonLocalConfig):
    """Settings of the head."""

    name: str = "non_local"


class NonLocalHead(ConvContextConvHead):
    """FCN-style head around the block; a new one computes the same as `fcn`, since the last norm starts at 0."""

    Config = NonLocalHeadConfig
    takes_frames = True

    def __init__(self, cfg: NonLocalHeadConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes, NonLocalBlock(cfg.channels, cfg, has_norm=cfg.has_norm))


HEAD = NonLocalHead
