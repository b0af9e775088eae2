"""A non-local block in the shell: every position gathers from all others.

Source: Non-local Neural Networks, Wang et al. 2018, arXiv:1711.07971.
"""

from collections.abc import Sequence

from segnl.models.blocks.non_local import NonLocalBlock, NonLocalConfig
from segnl.models.heads.base import ConvContextConvHead, ConvContextConvHeadConfig


class NonLocalHeadConfig(ConvContextConvHeadConfig, NonLocalConfig):
    """Settings of the head."""

    name: str = "non_local"


class NonLocalHead(ConvContextConvHead):
    """The block's last norm begins at 0, so a new head computes what `fcn` computes."""

    Config = NonLocalHeadConfig

    def __init__(self, cfg: NonLocalHeadConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes, NonLocalBlock(cfg.channels, cfg, has_norm=cfg.has_norm))


HEAD = NonLocalHead
