"""Attention weights of chosen query positions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Pixel = tuple[int, int]
"""Row and column of a position of a map."""


@dataclass(frozen=True)
class Hop:
    """One application of attention, seen from the query positions."""

    rows: Tensor
    """Weight of every key position for each query, `b q h w` (of the pooled map where the block subsamples)."""
    values: Tensor
    """Value of every key position, `b d h w`."""
    is_signed: bool
    """False for softmax weights, which sum to 1; True for the unbounded weights of dot product and concatenation."""
    name: str = "attention"

    def aggregate(self) -> Tensor:
        """Returns each query's weighted sum of the values, `b d q`, before gamma, W_z and the residual."""
        return torch.einsum("bqhw,bdhw->bdq", self.rows, self.values)


@dataclass(frozen=True)
class AttentionRows:
    """Attention weights of the query positions in every hop.

    With `routing` the hops follow one another. Without it they act in parallel, or there is only one.
    """

    hops: list[Hop]
    routing: Tensor | None = None
    """Rows of the product of all hops' attention matrices, `b q h w`, which sum to 1; None for a single hop.

    They show which positions can reach a query, without residuals, gamma and the values between the hops.
    """


def pick(maps: Tensor, pixels: Sequence[Pixel]) -> Tensor:
    """Returns the values of maps `b c h w` at the pixels, `b c q`."""
    rows, columns = zip(*pixels, strict=True)
    return maps[:, :, list(rows), list(columns)]


def shared_rows(scores: Tensor, num_queries: int) -> Tensor:
    """Returns the softmax over positions of scores `b 1 h w`, the same for every query: `b q h w`."""
    weights = scores.flatten(2).softmax(dim=-1).view(scores.shape)
    return weights.expand(-1, num_queries, -1, -1)
