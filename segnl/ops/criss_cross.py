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


def reference_criss_cross_context(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The formula as it stands, for exported graphs: query, key `b c h w`, value `b d h w` -> `b d h w`."""
    h, w = query.shape[-2:]
    row_scores = torch.matmul(query.permute(0, 2, 3, 1), key.permute(0, 2, 1, 3))  # b h w w
    column_scores = torch.matmul(query.permute(0, 3, 2, 1), key.permute(0, 3, 1, 2))  # b w h h
    itself = torch.eye(h, dtype=torch.bool, device=query.device)
    # The row holds the position already; masked in the column, it counts once.
    column_scores = column_scores.masked_fill(itself, -torch.inf).transpose(1, 2)  # b h w h
    weights = torch.cat([row_scores, column_scores], dim=-1).softmax(dim=-1)  # b h w (w + h)
    row_weights, column_weights = weights.split([w, h], dim=-1)
    from_row = torch.matmul(row_weights, value.permute(0, 2, 3, 1))  # b h w d
    from_column = torch.matmul(column_weights.transpose(1, 2), value.permute(0, 3, 2, 1))  # b w h d
    return (from_row + from_column.transpose(1, 2)).permute(0, 3, 1, 2)  # b d h w
