"""Recurrent criss-cross attention.

Source: CCNet, Huang et al. 2019, arXiv:1811.11721.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import Config, SmallCount
from segnl.models.blocks.attention_rows import AttentionRows, Hop
from segnl.models.blocks.conv import to_rows
from segnl.ops.criss_cross import criss_cross_context


class CrissCrossConfig(Config):
    """Settings of the block."""

    recurrence: SmallCount = 2
    """How often the attention is applied, with one set of weights: it may be another at evaluation."""
    reduction: int = Field(8, ge=1)
    """Channels of query and key are divided by it."""
    gamma_init: float = 0.0
    """What the attention's weight begins with; at 0 a new block is the identity, bit for bit."""


class Gamma(nn.Module):
    """One learned factor, `scale` of shape ()."""

    opens_attention = True
    """Whether attention acts only as far as this module's parameters let it: `optim.gamma_lr_mult` is for these."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The value it was made with."""
        nn.init.constant_(self.scale, self.initial)

    def forward(self, x: Tensor) -> Tensor:
        """scale * x."""
        return self.scale * x


class CrissCrossBlock(nn.Module):
    """R times x + gamma * attention(x), where a position attends to its row and its column, itself once."""

    def __init__(self, channels: int, cfg: CrissCrossConfig) -> None:
        super().__init__()
        inner = max(1, channels // cfg.reduction)
        self.recurrence = cfg.recurrence
        self.query_conv = nn.Conv2d(channels, inner, 1)
        self.key_conv = nn.Conv2d(channels, inner, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = Gamma(cfg.gamma_init)

    def forward(self, x: Tensor) -> Tensor:
        """x `b c h w`. Returns the same shape."""
        for _ in range(self.recurrence):
            x = self.hop(x)
        return x

    def hop(self, x: Tensor) -> Tensor:
        """One application: x `b c h w` to the same shape."""
        return x + self.aggregate(x, self.gamma.scale)

    def aggregate(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """What every position gathers from its row and column in one hop, times `factor` (None: 1): `b c h w`.

        The attention is linear in its values, so the factor acts on their weights: on a matrix instead of a map.
        """
        convs = (self.query_conv, self.key_conv, self.value_conv)
        weights = [conv.weight.flatten(1) for conv in convs]
        biases: list[Tensor] = [conv.bias for conv in convs if conv.bias is not None]  # each has one
        if factor is not None:
            weights[2], biases[2] = factor * weights[2], factor * biases[2]
        rows = to_rows(x.flatten(2), torch.cat(weights), torch.cat(biases))  # b n (2 c + d)
        maps = rows.unflatten(1, x.shape[2:]).movedim(-1, 1)  # channels side by side, as the operator wants them
        return criss_cross_context(*maps.split([len(weight) for weight in weights], dim=1))

    def attend(self, x: Tensor, pixel: tuple[int, int]) -> AttentionRows:
        """The row of one position of x `b c h w` in every hop, and the composed row; makes h + w numbers a position."""
        inputs = [x]
        for _ in range(self.recurrence - 1):
            inputs.append(self.hop(inputs[-1]))
        here = x.new_zeros(x.shape[0], *x.shape[2:])
        here[:, pixel[0], pixel[1]] = 1.0
        hops = [Hop(self._routed(here, each), self.value_conv(each), is_signed=False) for each in inputs]
        routing = hops[-1].row
        for each in reversed(inputs[:-1]):
            routing = self._routed(routing, each)
        return AttentionRows(hops, routing)

    def _routed(self, row: Tensor, x: Tensor) -> Tensor:
        """row `b h w` times the attention matrix of x, `b h w`: where the row's positions look in turn."""
        query, key = self.query_conv(x), self.key_conv(x)
        by_row = torch.einsum("bchw,bchj->bhwj", query, key)
        by_column = torch.einsum("bchw,bciw->bhwi", query, key)
        h, w = x.shape[2:]
        itself = torch.eye(h, dtype=torch.bool, device=x.device)[:, None, :]  # h 1 h: the row holds the pixel already
        weights = torch.cat([by_row, by_column.masked_fill(itself, -torch.inf)], dim=-1).softmax(dim=-1)
        over_row, over_column = weights.split([w, h], dim=-1)
        along_rows = torch.einsum("bhw,bhwj->bhj", row, over_row)
        return along_rows + torch.einsum("bhw,bhwi->biw", row, over_column)
