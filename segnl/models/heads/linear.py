"""Batch norm and the classifier alone: what the backbone's features hold by themselves.

The usual probe of frozen features, as in DINOv2, Oquab et al. 2023, arXiv:2304.07193, section 7.4. Its form with the
last four layers concatenated is `in_stages: [0, 1, 2, 3]`.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput


class LinearConfig(HeadConfig):
    """Settings of the head."""

    name: str = "linear"


class LinearHead(ContextHead):
    """Batch norm of the concatenated stages; the classifier, which all heads share, is a 1x1 convolution."""

    Config = LinearConfig

    def __init__(self, cfg: LinearConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        self.norm = nn.BatchNorm2d(self.in_channels)
        self.out_channels = self.in_channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5 to the context `b c h w`."""
        return HeadOutput(self.norm(self.concat_stages(stages)))


HEAD = LinearHead
