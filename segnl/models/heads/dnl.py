"""A disentangled non-local block in the shell: pairs of positions beside what all positions want alike.

Source: Disentangled Non-Local Neural Networks, Yin et al. 2020, arXiv:2006.06668.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from segnl.models.blocks.attention_rows import AttentionRows, Hop
from segnl.models.blocks.non_local import NonLocalBlock, NonLocalConfig
from segnl.models.heads.base import ConvContextConvHead, ConvContextConvHeadConfig
from segnl.ops.regions import region_context


class DisentangledConfig(NonLocalConfig):
    """Settings of the block."""

    pairwise: Literal["embedded_gaussian", "dot_product"] = "embedded_gaussian"
    subsample: Literal[False] = False
    """Not with this block."""
    temperature: float = Field(0.05, gt=0.0)
    """By which the embedded gaussian's scores are divided."""


class DNLHeadConfig(ConvContextConvHeadConfig, DisentangledConfig):
    """Settings of the head."""

    name: str = "dnl"


class DisentangledBlock(NonLocalBlock):
    """x + norm(W_z (sum_j f(theta_i - mean, phi_j - mean) g_j + sum_j softmax_j(w . x_j) g_j)).

    The first sum is the non-local block's over whitened embeddings, the second is the same for every position. A new
    block is the identity.
    """

    def __init__(self, channels: int, cfg: DisentangledConfig, *, has_norm: bool = True) -> None:
        super().__init__(channels, cfg, has_norm=has_norm)
        if cfg.pairwise == "embedded_gaussian":
            self.scale /= cfg.temperature
        self.unary = nn.Conv2d(channels, 1, 1)

    def gathered(self, x: Tensor) -> Tensor:
        """Both sums: `b d n`."""
        # The weights sum to 1, so g, its bias too, may act on the weighted mean alone.
        mean = region_context(self.unary(x).flatten(2), x.flatten(2))  # b c 1
        return self.aggregate(x) + self.g(mean).transpose(1, 2)

    def attend(self, x: Tensor, pixel: tuple[int, int]) -> AttentionRows:
        """The row of the pairs, then the one that every position has: they act side by side, and their sums add up."""
        (pairs,) = super().attend(x, pixel).hops
        shared = self.unary(x)[:, 0].flatten(1).softmax(dim=-1).unflatten(1, x.shape[2:])  # b h w
        return AttentionRows([pairs, Hop(shared, pairs.values, is_signed=False)])

    def _embedded(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta, phi, g = super()._embedded(x)
        return theta - theta.mean(dim=2, keepdim=True), phi - phi.mean(dim=2, keepdim=True), g


class DNLHead(ConvContextConvHead):
    """The block's last norm begins at 0, so a new head computes what `fcn` computes."""

    Config = DNLHeadConfig

    def __init__(self, cfg: DNLHeadConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes, DisentangledBlock(cfg.channels, cfg, has_norm=cfg.has_norm))


HEAD = DNLHead
