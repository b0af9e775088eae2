"""Attention between two maps, or a map and regions, with query, key and value from 1x1 convolutions.

Source: scaled dot-product attention, Vaswani et al. 2017, arXiv:1706.03762.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segnl.models.blocks.attention_rows import Hop, Pixel, pick
from segnl.models.blocks.conv import NormActConfig
from segnl.ops.context import pyramid_means, pyramid_spread
from segnl.ops.non_local import softmax_context


class ProjectedAttention(nn.Module):
    """softmax(query . key / sqrt(c)) value; `query`, `key` and `value` are 1x1 convolutions, c the query's channels.

    key: None for tied weights, where the query's convolution also gives the keys.
    is_scaled: divides scores by sqrt(c).  bins: pools keys and values to these grids after their projections
    (ops/context.py).
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

    def forward(self, query_map: Tensor, key_map: Tensor) -> Tensor:
        """Maps query_map `b c h w` and key_map `b e * *` to the context `b d h w` of every query position."""
        query = self.query(query_map)  # b c h w
        key = query if self.key is None and key_map is query_map else self._keys(key_map)
        value = self.value(key_map)
        if self.bins:
            key, value = pyramid_means(key, self.bins), pyramid_means(value, self.bins)  # b c r, b d r
        else:
            key, value = key.flatten(2), value.flatten(2)
        context = softmax_context(query.flatten(2), key, value, scale=self._scale(query))
        return context.unflatten(2, query.shape[2:])

    def attend(self, query_map: Tensor, key_map: Tensor, pixels: Sequence[Pixel], *, name: str = "attention") -> Hop:
        """Returns the attention weights of the pixels of query_map `b c h w` over key_map `b e h w`.

        Where keys are pooled to grids, a cell's weight is spread evenly over its positions: a value is a mean of
        projected positions, so that the context is the same sum.
        """
        query, keys = pick(self.query(query_map), pixels), self._keys(key_map)  # b c q, b c h w
        hw = (keys.shape[2], keys.shape[3])
        keys = pyramid_means(keys, self.bins) if self.bins else keys.flatten(2)  # b c m
        rows = (torch.einsum("bcq,bcm->bqm", query, keys) * self._scale(query)).softmax(dim=-1)
        rows = pyramid_spread(rows, self.bins, hw) if self.bins else rows.unflatten(2, hw)
        return Hop(rows, self.value(key_map), is_signed=False, name=name)

    def _keys(self, key_map: Tensor) -> Tensor:
        keys: Tensor = self.query(key_map) if self.key is None else self.key(key_map)
        return keys

    def _scale(self, query: Tensor) -> float:
        return float(query.shape[1] ** -0.5) if self.is_scaled else 1.0


def projection(
    cfg: NormActConfig, in_channels: int, channels: int, *, num_convs: int, is_pooled: bool = False
) -> nn.Sequential:
    """Builds 1x1 convolutions with the norm and activation of `cfg`. is_pooled: for maps that may hold one position."""
    widths = [in_channels, *[channels] * num_convs]
    return nn.Sequential(*(cfg.conv(c, d, 1, is_pooled=is_pooled) for c, d in itertools.pairwise(widths)))
