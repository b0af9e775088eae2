"""Normalisation of pixel values on the device."""

from typing import Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from segnl.core.config import Config

ThreeNumbers = tuple[float, float, float]


class InputConfig(Config):
    """Input convention; the defaults are ImageNet's, as in the weights of torchvision and mmsegmentation."""

    mean: ThreeNumbers = (123.675, 116.28, 103.53)
    """On the scale 0..255, in the channel order `order`."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)
    order: Literal["rgb", "bgr"] = Field("rgb", description="the channel order that the weights expect")

    @property
    def padding_rgb(self) -> tuple[int, int, int]:
        """The RGB value, 0..255, that normalises to nearly zero; it pads crops that reach beyond their image."""
        mean = self.mean if self.order == "rgb" else self.mean[::-1]
        return round(mean[0]), round(mean[1]), round(mean[2])


class Normalise(nn.Module):
    """(pixel - mean) / std of RGB pixels, in the network's channel order.

    Adds nothing to the state_dict: mean, std and order come from the recipe, which every checkpoint contains.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, cfg: InputConfig) -> None:
        super().__init__()
        self.order = cfg.order
        self.register_buffer("mean", torch.tensor(cfg.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(cfg.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Maps an RGB image `b 3 H W`, uint8 or floating in 0..255, to float32 of the same shape and memory format.

        Raises ValueError unless the image has three channels.
        """
        if image.dim() != 4 or image.shape[1] != 3:
            raise ValueError(f"image: shape {tuple(image.shape)}; expected `b 3 H W`")
        if self.order == "bgr":
            image = image.flip(1)
        if image.stride(1) != 1:
            return _normalised(image, self.mean, self.std)
        # Channels are adjacent in memory: repeating mean and std along a row takes a quarter of broadcasting's time.
        rows, width = image.permute(0, 2, 3, 1).flatten(2), image.shape[3]  # b H W*3
        mean, std = (values.flatten().repeat(width) for values in (self.mean, self.std))
        return _normalised(rows, mean, std).unflatten(2, (width, 3)).permute(0, 3, 1, 2)


def _normalised(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    # In place after the first step: at 1024x2048 every copy writes and reads 25 MB.
    centred = pixels.float() - mean if pixels.is_floating_point() else pixels.float().sub_(mean)
    return centred.div_(std)
