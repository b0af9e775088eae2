"""The smallest backbone: 3x3 convolutions of stride 2, for networks that shall see little by themselves."""

from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import ChannelCount
from segnl.models.backbones.base import Backbone, BackboneConfig
from segnl.models.blocks.conv import KaimingConv2d


class StridedConvsConfig(BackboneConfig):
    """Settings of the backbone."""

    name: str = "strided_convs"
    channels: ChannelCount = 32
    num_convs: int = Field(2, ge=1, le=5)
    """The output stride is 2 to this power; a position sees 2 ** (num_convs + 1) - 1 pixels in each direction."""


class StridedConvs(Backbone):
    """Convolutions with batch norm and ReLU; c5 is the last one's output, c4 the one before, and so on.

    With fewer convolutions than stages, the first stages are all the first one's output.
    """

    Config = StridedConvsConfig
    is_self_initialised = False

    def __init__(self, cfg: StridedConvsConfig) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(
                KaimingConv2d(cfg.channels if index else 3, cfg.channels, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(cfg.channels),
                nn.ReLU(inplace=True),
            )
            for index in range(cfg.num_convs)
        )
        self.outputs = tuple(max(0, cfg.num_convs - 4 + stage) for stage in range(4))
        """Index of the convolution whose output is c2, c3, c4, c5."""
        self.stage_channels = (cfg.channels,) * 4
        self.stage_strides = tuple(2 ** (index + 1) for index in self.outputs)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps a normalised float image `b 3 H W` to c2..c5."""
        maps = []
        x = image
        for conv in self.convs:
            x = conv(x)
            maps.append(x)
        return [maps[index] for index in self.outputs]


BACKBONE = StridedConvs
