"""The auxiliary head: one convolution and a classifier on an earlier stage."""

from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import ChannelCount, Config, NumberFromZero
from segnl.models.blocks.conv import ConvNormAct, NormalInitConv2d


class AuxConfig(Config):
    """Settings of the auxiliary head."""

    channels: ChannelCount = 256
    weight: NumberFromZero = 0.4
    """Weight of its loss."""
    stage: int = Field(2, ge=0, le=3)
    """Input stage, 0 = c2 .. 3 = c5."""
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    has_conv_bias: bool = False
    """Adds a bias to its convolution in addition to the norm, as CCNet does."""
    leaky_slope: float = Field(0.0, ge=0.0, le=1.0)


class AuxiliaryHead(nn.Module):
    """3x3 convolution, norm, activation, dropout, classifier."""

    def __init__(self, cfg: AuxConfig, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_channels, cfg.channels, 3, has_bias=cfg.has_conv_bias, leaky_slope=cfg.leaky_slope)
        self.dropout = nn.Dropout2d(cfg.dropout)
        self.classifier = NormalInitConv2d(cfg.channels, num_classes, 1)

    def forward(self, stage: Tensor) -> Tensor:
        """Maps a stage `b c h w` to logits `b k h w`."""
        return self.classifier(self.dropout(self.conv(stage)))
