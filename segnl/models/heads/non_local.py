"""A non-local block in the shell: every position gathers from all others.

Source: Non-local Neural Networks, Wang et al. 2018, arXiv:1711.07971.
"""

from collections.abc import Sequence

from torch import Tensor

from segnl.models.blocks.attention_rows import AttentionRows
from segnl.models.blocks.non_local import NonLocalBlock, NonLocalConfig
from segnl.models.blocks.shell import Shell, ShellConfig
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput


class NonLocalHeadConfig(HeadConfig, ShellConfig, NonLocalConfig):
    """Settings of the head."""

    name: str = "non_local"


class NonLocalHead(ContextHead):
    """The block's last norm begins at 0, so a new head computes what `fcn` computes."""

    Config = NonLocalHeadConfig

    def __init__(self, cfg: NonLocalHeadConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        self.shell = Shell(cfg, self.in_channels, NonLocalBlock(cfg.channels, cfg, has_norm=cfg.has_norm))
        self.out_channels = self.shell.out_channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """stages: c2..c5. Returns the context `b d h w`."""
        return HeadOutput(self.shell(self.gather(stages)))

    def attend(self, stages: Sequence[Tensor], pixel: tuple[int, int]) -> AttentionRows:
        """The rows of one position."""
        return self.shell.attend(self.gather(stages), pixel)


HEAD = NonLocalHead
