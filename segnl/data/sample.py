"""A sample, as a data set yields it, and a batch, as a training step takes it."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from segnl.core.arrays import Pixels


class Sample(NamedTuple):
    """One image with its label; torch's default_collate stacks samples of one size.

    image: u8 `H W 3`, RGB; with data.frames t > 1 `H W t*3`, the labelled frame first.
    label: u8 `H W`, train ids 0..k-1 or 255.
    id: unique within its split; masks of this image are named after it.
    """

    image: Pixels
    label: Pixels
    id: str


@dataclass(frozen=True)
class Batch:
    """Crops for one step of one rank.

    image: u8 `b 3 H W` (`b t*3 H W`), RGB 0..255, not normalised: the model does that on the device, after a quarter of
    the bytes were copied.
    label: u8 `b H W`, train ids 0..k-1 or 255, widened on the device for the same reason (docs/adr/0010).
    """

    image: Tensor
    label: Tensor
    sample_ids: list[str]
    stages: list[Tensor | None] | None = None
    """Maps c2..c5 `b c h w` of a frozen backbone for these crops, None for those that no head reads. `image` then holds
    only the pixels that its hash needs, every fourth pixel in every fourth row. None: the network computes them."""


def collate(samples: list[Sample], memory: tuple[Tensor, Tensor] | None = None) -> Batch:
    """Stacks samples of one size. memory: image and label of the batch, to be written into; null: new ones."""
    rows, columns, bands = samples[0].image.shape
    shapes = (len(samples), bands, rows, columns), (len(samples), rows, columns)
    image, label = memory or (torch.empty(shape, dtype=torch.uint8) for shape in shapes)
    for planes, sample in zip(image.numpy(), samples, strict=True):
        if bands == 3:
            cv2.split(sample.image, list(planes))  # 20 times as fast as a transposition
        else:
            planes[:] = sample.image.transpose(2, 0, 1)
    np.stack([sample.label for sample in samples], out=label.numpy())
    return Batch(image, label, [sample.id for sample in samples])
