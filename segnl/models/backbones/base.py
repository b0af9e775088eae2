"""Interface of backbones."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from segnl.core.config import Config, JSONDict


class BackboneConfig(Config):
    """Settings of every backbone."""

    name: str
    weights: str | None = None
    """Pretrained weights: a name (`imagenet`), the path of a file, or null for random ones."""


class Backbone(nn.Module):
    """Network from an image `b 3 H W` to stages c2..c5, `b c h w` each.

    A subclass sets `Config`, takes it as argument and sets `stage_channels`; its file ends with `BACKBONE = THE_CLASS`.
    """

    Config: ClassVar[type[BackboneConfig]]
    variants: ClassVar[Mapping[str, JSONDict]] = {}
    """Settings by the short names of segnl.create_model, such as `resnet50`; none: the name of the file is the name."""
    stage_channels: tuple[int, ...]
    """Channels of c2..c5."""
    activation_checkpointing = False
    """Stores only the input of each block for backward; the trainer sets it."""

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps a normalised float image `b 3 H W` to c2..c5."""
        raise NotImplementedError
