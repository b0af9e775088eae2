"""Attention between two maps, or two sets of regions, whose queries, keys and values are projected by 1x1 convolutions.

Source: scaled dot-product attention, Vaswani et al. 2017, arXiv:1706.03762.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segnl.models.blocks.attention_rows import AttentionRows, Hop
from segnl.models.blocks.conv import ConvNormAct, NormActConfig
from segnl.ops.non_local import softmax_context
from segnl.ops.pyramid import pyramid_means


class ProjectedAttention(nn.Module):
    """softmax(query . key / sqrt(c)) value: `query`, `key` and `value` are 1x1 convolutions, c the query's channels.

    query: from `asking` channels to c.  key, value: from `answering` channels to c and to the values' own; without a
    `key` the query's convolution makes the keys too.
    is_scaled: whether scores are divided by sqrt(c).  bins: keys and values are pooled to these grids after their
    projections (ops/pyramid.py).
    """

    def __init__(
        self,
        query: nn.Module,
        key: nn.Module | None,
        value: nn.Module,
        *,
        is_scaled: bool = True,
        bins: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.query, self.key, self.value = query, key, value
        self.is_scaled, self.bins = is_scaled, tuple(bins)

    def forward(self, asking: Tensor, answering: Tensor) -> Tensor:
        """asking `b c h w`, answering `b e * *`. Returns `b d h w`: what every position of `asking` gathers."""
        query = self.query(asking)  # b c h w
        key = query if self.key is None and answering is asking else self._keys(answering)
        value = self.value(answering)
        if self.bins:
            key, value = pyramid_means(key, self.bins), pyramid_means(value, self.bins)  # b c r, b d r
        else:
            key, value = key.flatten(2), value.flatten(2)
        context = softmax_context(query.flatten(2), key, value, scale=self._scale(query))
        return context.unflatten(2, query.shape[2:])

    def attend(self, asking: Tensor, answering: Tensor, pixel: tuple[int, int]) -> AttentionRows:
        """The row of one position of `asking` `b c h w` over `answering` `b e h w`.

        Raises ValueError where cells answer, not positions.
        """
        if self.bins:
            raise ValueError(f"bins: {self.bins}; rows are given where positions answer, not the cells of grids")
        query = self.query(asking)[:, :, pixel[0], pixel[1]]  # b c
        scores = torch.einsum("bc,bchw->bhw", query, self._keys(answering)) * self._scale(query)
        row = scores.flatten(1).softmax(dim=1).unflatten(1, scores.shape[1:])
        return AttentionRows([Hop(row, self.value(answering), is_signed=False)])

    def _keys(self, answering: Tensor) -> Tensor:
        keys: Tensor = self.query(answering) if self.key is None else self.key(answering)
        return keys

    def _scale(self, query: Tensor) -> float:
        return float(query.shape[1] ** -0.5) if self.is_scaled else 1.0


def projection(
    cfg: NormActConfig, in_channels: int, channels: int, *, num_convs: int, is_pooled: bool = False
) -> nn.Sequential:
    """1x1 convolutions, each with the norm and the activation of `cfg`. is_pooled: of a map that may be one value."""
    return nn.Sequential(
        *(
            ConvNormAct(
                channels if index else in_channels,
                channels,
                1,
                is_pooled=is_pooled,
                has_norm=cfg.has_norm,
                leaky_slope=cfg.leaky_slope,
            )
            for index in range(num_convs)
        )
    )
