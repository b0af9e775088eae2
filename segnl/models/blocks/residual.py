"""Residual blocks of ResNets over images and over clips."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from segnl.models.blocks.conv import ZeroInitBatchNorm


class ResidualBlock(nn.Module):
    """Convolutions conv1, conv2 ..., each with its batch norm bn1, bn2 ...; the input is added to the last result.

    shortcut: maps the input to the result's shape; None where it has that shape. zero_init: starts the last norm at 0.
    """

    def __init__(
        self, convs: Sequence[nn.Conv2d | nn.Conv3d], shortcut: nn.Sequential | None, *, zero_init: bool
    ) -> None:
        super().__init__()
        self.num_convs = len(convs)
        for number, conv in enumerate(convs, start=1):
            norm = nn.BatchNorm2d if isinstance(conv, nn.Conv2d) else nn.BatchNorm3d
            starts_at_0 = zero_init and number == self.num_convs
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", (ZeroInitBatchNorm if starts_at_0 else norm)(conv.out_channels))
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Maps x `b c *` to `b d *`, smaller by the strides."""
        out = x
        for number in range(1, self.num_convs + 1):
            out = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(out))
            if number < self.num_convs:
                out = F.relu(out, inplace=True)
        return F.relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)
