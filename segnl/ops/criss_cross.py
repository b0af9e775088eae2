"""Criss-cross attention: each position's softmax-weighted sum over its row and its column.

Source: CCNet, Huang et al. 2019, arXiv:1811.11721.
"""

import torch
from torch import Tensor

from segnl.ops.arguments import agree, is_exporting, only_reverse_mode
from segnl.ops.kernels.criss_cross import criss_cross


def criss_cross_context(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax of query . key over a position's row and column, itself once, times value.

    query, key `b c h w`, value `b d h w`; any memory layout, channels-last is read without a copy. Returns `b d h w` in
    channels-last layout: a weighted sum of h + w - 1 positions for each. No scale is applied. Scores, softmax and sums
    are taken in float32 (float64 for float64), under autocast too. Differentiable once in all three.

    Raises ValueError when shapes, dtypes or devices do not agree, or a map is empty.
    """
    query, key, value = agree(("query", query, "b c h w"), ("key", key, "b c h w"), ("value", value, "b d h w"))
    if is_exporting():
        return reference_criss_cross_context(query, key, value)
    q, k, v = (x.permute(0, 2, 3, 1) for x in (query, key, value))  # b h w c
    only_reverse_mode("criss_cross_context", q, k, v)
    context: Tensor = criss_cross(q, k, v)[0]  # b h w d
    return context.permute(0, 3, 1, 2)


def reference_criss_cross_context(query: Tensor, key: Tensor, value: Tensor, *, radius: int | None = None) -> Tensor:
    """The formula as it stands, for exported graphs: query, key `b c h w`, value `b d h w` -> `b d h w`.

    radius: of a window, as `row_and_column_weights` takes it.
    """
    over_row, over_column = row_and_column_weights(query, key, radius=radius)
    context = torch.einsum("bhwj,bdhj->bdhw", over_row, value)
    return context + torch.einsum("bhwi,bdiw->bdhw", over_column, value)


def row_and_column_weights(query: Tensor, key: Tensor, *, radius: int | None = None) -> tuple[Tensor, Tensor]:
    """Returns each position's softmax weights over its row, `b h w w`, itself included, and its column, `b h w h`.

    query, key: `b c h w`. radius: weights of positions more rows or columns away are 0; None for no limit.
    """
    h, w = query.shape[2:]
    by_row = torch.einsum("bchw,bchj->bhwj", query, key)
    by_column = torch.einsum("bchw,bciw->bhwi", query, key)
    # The row holds the position already; masked in the column, it counts once.
    is_masked = near(h, 0, query.device)
    if radius is not None:
        by_row = by_row.masked_fill(~near(w, radius, query.device), -torch.inf)
        is_masked = is_masked | ~near(h, radius, query.device)
    by_column = by_column.masked_fill(is_masked[:, None], -torch.inf)
    over_row, over_column = torch.cat([by_row, by_column], dim=-1).softmax(dim=-1).split([w, h], dim=-1)
    return over_row, over_column


def near(length: int, radius: int, device: torch.device) -> Tensor:
    """Returns bool `length length`: True for indices at most `radius` apart."""
    index = torch.arange(length, device=device)
    return (index[:, None] - index).abs() <= radius
