"""Input of the network: number of channels, and normalisation of pixel values on the device."""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from segnl.core.config import Config, Number, NumberAboveZero
from segnl.core.errors import ConfigError

MAX_BANDS = 64
Numbers = Annotated[tuple[Number, ...], Field(min_length=1, max_length=MAX_BANDS)]
_Std = Annotated[NumberAboveZero, Field(ge=1e-6)]
Widening = Literal["repeat", "mean", "zero"]


class InputConfig(Config):
    """Input convention; the defaults are ImageNet's, as in the weights of torchvision and mmsegmentation."""

    channels: Annotated[int, Field(ge=1, le=MAX_BANDS)] = 3
    """Bands of an image: 3 for RGB, 4 for RGB and infrared, 1 for grey or thermal, more for multispectral TIFF."""
    mean: Numbers = (123.675, 116.28, 103.53)
    """One for each channel, on the scale 0..255, in the channel order `order`."""
    std: Annotated[tuple[_Std, ...], Field(min_length=1, max_length=MAX_BANDS)] = (58.395, 57.12, 57.375)
    order: Literal["rgb", "bgr"] = Field("rgb", description="the channel order that the weights expect")
    widening: Widening = "repeat"
    """How the first convolution of backbone.weights, of 3 channels, gets another number (segnl/models/input.py)."""

    @model_validator(mode="after")
    def _one_number_a_channel(self) -> "InputConfig":
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) != self.channels:
                raise ValueError(
                    f"{name}: has {len(numbers)} numbers; expected one for each of {self.channels} channels"
                )
        if self.order == "bgr" and self.channels != 3:
            raise ValueError(f"order: bgr needs 3 channels, there are {self.channels}")
        return self

    @property
    def padding_rgb(self) -> tuple[int, ...]:
        """The pixel, RGB or a level for each band, that normalises to nearly zero; it pads crops beyond their image."""
        mean = self.mean if self.order == "rgb" else self.mean[::-1]
        return tuple(round(level) for level in mean)


def first_convolution(backbone: nn.Module, channels: int) -> nn.Conv2d:
    """Returns the first convolution of a backbone that reads images of `channels`; raises ConfigError for none."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == channels and module.groups == 1:
            return module
    raise ConfigError("model.input.channels: this backbone has no first convolution to widen; leave it at 3")


def set_channels(conv: nn.Conv2d, channels: int) -> None:
    """Gives a convolution another number of input channels and new initial weights, kept frozen if they were."""
    shape = (conv.out_channels, channels, *conv.kernel_size)
    conv.in_channels = channels
    conv.weight = nn.Parameter(conv.weight.new_empty(shape), requires_grad=conv.weight.requires_grad)
    conv.reset_parameters()


def widened(weight: Tensor, channels: int, widening: Widening) -> Tensor:
    """Returns the weights of a first convolution for another number of channels.

    weight: `d 3 y x`, for RGB; returns `d channels y x`. One channel gets their sum, so a grey image has the effect of
    the same image in RGB. Otherwise `repeat` takes R, G, B, R, ... and `mean` their mean for all, both times
    3 / channels, so the sum over channels keeps its scale; `zero` keeps them, with zeros for further channels.
    """
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    if widening == "mean":
        return weight.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1) * (3 / channels)
    if widening == "repeat":
        return weight[:, [i % 3 for i in range(channels)]] * (3 / channels)
    further = weight.new_zeros(len(weight), max(0, channels - 3), *weight.shape[2:])
    return torch.cat([weight, further], dim=1)[:, :channels]


class Normalise(nn.Module):
    """(pixel - mean) / std of pixels, in the network's channel order.

    Adds nothing to the state_dict: mean, std and order come from the recipe, which every checkpoint contains.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, cfg: InputConfig, num_frames: int = 1) -> None:
        super().__init__()
        self.order, self.channels, self.num_frames = cfg.order, cfg.channels, num_frames
        self.register_buffer("mean", torch.tensor(cfg.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(cfg.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Maps an RGB image `b 3 H W`, uint8 or floating in 0..255, to float32 of the same shape and memory format.

        With another number of channels `b channels H W`, of num_frames as many. Raises ValueError unless the image has
        as many.
        """
        if image.dim() != 4 or image.shape[1] != self.channels * self.num_frames:
            raise ValueError(f"image: shape {tuple(image.shape)}; expected `b {self.channels * self.num_frames} H W`")
        if self.num_frames == 1:
            return self._normalised(image)
        frames = image.unflatten(1, (self.num_frames, self.channels)).flatten(0, 1)  # b*t 3 H W
        return self._normalised(frames).unflatten(0, (-1, self.num_frames)).flatten(1, 2)

    def _normalised(self, image: Tensor) -> Tensor:
        if self.order == "bgr":
            image = image.flip(1)
        # In place after the first step: at 1024x2048 every copy writes and reads 25 MB.
        centred = image.float() - self.mean if image.is_floating_point() else image.float().sub_(self.mean)
        return centred.div_(self.std)
