"""What a backbone is: settings, channels of its stages, and an image turned into them."""

from typing import ClassVar

from torch import Tensor, nn

from segnl.core.config import Config


class BackboneConfig(Config):
    """Settings that every backbone has."""

    name: str
    weights: str | None = None
    """Pretrained weights: a name (`imagenet`), the path of a file, or null for random ones."""


class Backbone(nn.Module):
    """Image `b 3 H W` to stages c2..c5, `b c h w` each; a subclass's file ends with `BACKBONE = THE_CLASS`."""

    Config: ClassVar[type[BackboneConfig]]
    stage_channels: tuple[int, ...]
    """Channels of c2..c5."""
    activation_checkpointing = False
    """Stores only the input of each block for backward; the trainer sets it."""

    def forward(self, image: Tensor) -> list[Tensor]:
        """image: float `b 3 H W`, normalised. Returns c2..c5."""
        raise NotImplementedError
