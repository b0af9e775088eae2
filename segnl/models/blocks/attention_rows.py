"""What one position attends to, as data."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Hop:
    """One application of attention, seen from one position.

    sum over (h, w) of row * values is what the position gathers in this hop, before its weight and the residual.
    """

    row: Tensor
    """`b h w`: the weight of every position that answers (a pooled map where the block subsamples)."""
    values: Tensor
    """`b d h w`: what each of them answers."""
    is_signed: bool
    """False: shares that sum to 1. True: weights of dot product or concatenation, neither bounded nor shares."""

    def aggregate(self) -> Tensor:
        """`b d`: what the position gathers in this hop."""
        return (self.row[:, None] * self.values).sum(dim=(2, 3))


@dataclass(frozen=True)
class AttentionRows:
    """The rows of every hop.

    With `routing` they act one after the other, first to last. Without it several act side by side on the same values,
    and their aggregates add up (dnl).
    """

    hops: list[Hop]
    routing: Tensor | None = None
    """`b h w`, the row of A_R ... A_1: over which positions the hops together can carry information here; it sums to 1.

    Routing, not output: the residuals, gamma and the values between the hops are not in it. None where a head has a
    single hop by nature.
    """
