"""Attention weights of one query position."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Hop:
    """One application of attention, seen from one query position."""

    row: Tensor
    """Weight of every key position, `b h w` (of the pooled map where the block subsamples)."""
    values: Tensor
    """Value of every key position, `b d h w`."""
    is_signed: bool
    """False for softmax weights, which sum to 1; True for the unbounded weights of dot product and concatenation."""

    def aggregate(self) -> Tensor:
        """Returns the weighted sum of the values, `b d`, before gamma, W_z and the residual."""
        return (self.row[:, None] * self.values).sum(dim=(2, 3))


@dataclass(frozen=True)
class AttentionRows:
    """Attention weights of one query position in every hop.

    With `routing` the hops follow one another. Without it they act in parallel on the same values, and their
    aggregates are added (dnl).
    """

    hops: list[Hop]
    routing: Tensor | None = None
    """Row of the product of all hops' attention matrices, `b h w`, which sums to 1; None for heads with a single hop.

    It shows which positions can reach the query, without residuals, gamma and the values between the hops.
    """
