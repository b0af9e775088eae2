"""The textbook forms of the operators, quadratic in memory: for graphs that are exported, and to measure against.

They are differentiable and right, and every pair of positions is held at once. The operators of the same names without
`plain_` give the same numbers and are what the models call.
"""

import torch
from torch import Tensor


def plain_softmax_context(theta: Tensor, phi: Tensor, g: Tensor, scale: float = 1.0) -> Tensor:
    """theta `b c n`, phi `b c m`, g `b d m` -> `b d n`."""
    scores = torch.matmul(theta.transpose(1, 2), phi) * scale  # b n m: row n asks, column m answers
    return torch.matmul(g, scores.softmax(dim=-1).transpose(1, 2))  # b d n


def plain_dot_product_context(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """theta `b c n`, phi `b c m`, g `b d m` -> `b d n`."""
    weights = torch.matmul(theta.transpose(1, 2), phi) / phi.shape[-1]  # b n m
    return torch.matmul(g, weights.transpose(1, 2))  # b d n


def plain_concatenation_context(theta_score: Tensor, phi_score: Tensor, g: Tensor) -> Tensor:
    """theta_score `b n`, phi_score `b m`, g `b d m` -> `b d n`."""
    weights = (theta_score[:, :, None] + phi_score[:, None, :]).relu() / phi_score.shape[-1]  # b n m
    return torch.matmul(g, weights.transpose(1, 2))  # b d n


def plain_criss_cross_context(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """query, key `b c h w`, value `b d h w` -> `b d h w`."""
    h, w = query.shape[-2:]
    by_row = torch.matmul(query.permute(0, 2, 3, 1), key.permute(0, 2, 1, 3))  # b h w w: over its row
    by_column = torch.matmul(query.permute(0, 3, 2, 1), key.permute(0, 3, 1, 2))  # b w h h: over its column
    itself = torch.eye(h, dtype=torch.bool, device=query.device)
    # The row holds the pixel already; masked here, it counts once.
    by_column = by_column.masked_fill(itself, -torch.inf).transpose(1, 2)  # b h w h
    weights = torch.cat([by_row, by_column], dim=-1).softmax(dim=-1)  # b h w (w + h)
    over_row, over_column = weights.split([w, h], dim=-1)
    from_row = torch.matmul(over_row, value.permute(0, 2, 3, 1))  # b h w d
    from_column = torch.matmul(over_column.transpose(1, 2), value.permute(0, 3, 2, 1))  # b w h d
    return (from_row + from_column.transpose(1, 2)).permute(0, 3, 1, 2)  # b d h w
