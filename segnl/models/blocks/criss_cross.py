"""Recurrent criss-cross attention.

Source: CCNet, Huang et al. 2019, arXiv:1811.11721.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from segnl.core.config import ChannelCount, Config, Number, SmallCount
from segnl.models.blocks.attention_rows import AttentionRows, Hop, Pixel
from segnl.models.blocks.conv import to_rows
from segnl.ops.criss_cross import criss_cross_context, row_and_column_weights


class CrissCrossConfig(Config):
    """Settings of the block."""

    recurrence: SmallCount = 2
    """Number of hops, all with the same weights; may be changed at evaluation."""
    reduction: ChannelCount = 8
    """Channel reduction of query and key."""
    gamma_init: Number = 0.0
    """Initial factor of the attention; with 0 a new block is exactly the identity."""


class Gamma(nn.Module):
    """Learned factor `scale` of shape ()."""

    opens_attention = True
    """Marks modules whose parameters scale an attention branch; `optim.gamma_lr_mult` applies to them."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the initial value."""
        nn.init.constant_(self.scale, self.initial)

    def forward(self, x: Tensor) -> Tensor:
        """Returns scale * x."""
        return self.scale * x


class CrissCrossBlock(nn.Module):
    """R hops of x + gamma * attention(x), where a position attends to its row and column, to itself once."""

    def __init__(self, channels: int, cfg: CrissCrossConfig) -> None:
        super().__init__()
        inner = max(1, channels // cfg.reduction)
        self.recurrence = cfg.recurrence
        self.query_conv = nn.Conv2d(channels, inner, 1)
        self.key_conv = nn.Conv2d(channels, inner, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = Gamma(cfg.gamma_init)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x `b c h w` to the same shape."""
        for _ in range(self.recurrence):
            x = self.hop(x)
        return x

    def hop(self, x: Tensor) -> Tensor:
        """Applies the attention once: x `b c h w` to the same shape."""
        return x + self.aggregate(x, self.gamma.scale)

    def aggregate(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """Returns the attention context of one hop times `factor` (None: 1), `b c h w`.

        Attention is linear in its values, so the factor multiplies the value projection instead of a whole map.
        """
        convs = (self.query_conv, self.key_conv, self.value_conv)
        weights = [conv.weight.flatten(1) for conv in convs]
        biases: list[Tensor] = [conv.bias for conv in convs if conv.bias is not None]  # all have one
        if factor is not None:
            weights[2], biases[2] = factor * weights[2], factor * biases[2]
        rows = to_rows(x.flatten(2), torch.cat(weights), torch.cat(biases))  # b n (2 c + d)
        maps = rows.unflatten(1, x.shape[2:]).movedim(-1, 1)  # channels adjacent in memory, as the operator needs
        return criss_cross_context(*maps.split([len(weight) for weight in weights], dim=1))

    def attend(self, x: Tensor, pixels: Sequence[Pixel]) -> AttentionRows:
        """Returns the attention weights of the pixels of x `b c h w` in every hop, and in all hops together.

        Stores h + w numbers a position, not the matrix of all pairs.
        """
        inputs = [x]
        for _ in range(self.recurrence - 1):
            inputs.append(self.hop(inputs[-1]))
        queries = x.new_zeros(x.shape[0], len(pixels), *x.shape[2:])
        for i, (row, column) in enumerate(pixels):
            queries[:, i, row, column] = 1.0
        matrices = [row_and_column_weights(self.query_conv(x), self.key_conv(x)) for x in inputs]
        hops = [
            Hop(_times(queries, matrix), self.value_conv(x), is_signed=False, name=f"hop {number}")
            for number, (matrix, x) in enumerate(zip(matrices, inputs, strict=True), start=1)
        ]
        if len(hops) == 1:
            return AttentionRows([replace(hops[0], name="attention")])
        routing = hops[-1].rows
        for matrix in reversed(matrices[:-1]):
            routing = _times(routing, matrix)
        return AttentionRows(hops, routing)


def _times(rows: Tensor, matrix: tuple[Tensor, Tensor]) -> Tensor:
    """Returns rows `b q h w` times an attention matrix from `row_and_column_weights`, `b q h w`."""
    over_row, over_column = matrix
    along_rows = torch.einsum("bqhw,bhwj->bqhj", rows, over_row)
    return along_rows + torch.einsum("bqhw,bhwi->bqiw", rows, over_column)
