"""Disentangled non-local head: attention between whitened pairs plus one attention map shared by all positions.

Source: Disentangled Non-Local Neural Networks, Yin et al. 2020, arXiv:2006.06668.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from segnl.core.config import NumberAboveZero
from segnl.models.blocks.attention_rows import AttentionRows, Hop, shared_rows
from segnl.models.blocks.non_local import NonLocalBlock, NonLocalConfig
from segnl.models.heads.base import ConvContextConvHead, ConvContextConvHeadConfig
from segnl.ops.context import region_context


class DisentangledConfig(NonLocalConfig):
    """Settings of the block."""

    pairwise: Literal["embedded_gaussian", "dot_product"] = "embedded_gaussian"
    subsample: Literal[False] = False
    """Not available with this block."""
    temperature: NumberAboveZero = 0.05
    """Divisor of the embedded gaussian's scores."""


class DNLHeadConfig(ConvContextConvHeadConfig, DisentangledConfig):
    """Settings of the head."""

    name: str = "dnl"


class DisentangledBlock(NonLocalBlock):
    """Block x + norm(W_z (sum_j f(theta_i - mean, phi_j - mean) g_j + sum_j softmax_j(w . x_j) g_j)).

    The first sum is a non-local block's over whitened embeddings, the second is equal for all positions. A new block is
    the identity.
    """

    def __init__(self, channels: int, cfg: DisentangledConfig, *, has_norm: bool = True) -> None:
        super().__init__(channels, cfg, has_norm=has_norm)
        if cfg.pairwise == "embedded_gaussian":
            self.scale /= cfg.temperature
        self.unary = nn.Conv2d(channels, 1, 1)

    def context(self, x: Tensor) -> Tensor:
        """Returns both sums, `b d n`."""
        # The weights sum to 1, so g, including its bias, may be applied after the weighted mean.
        mean = region_context(self.unary(x).flatten(2), x.flatten(2))  # b c 1
        return self.aggregate(x) + self.g(mean).transpose(1, 2)

    def attend(self, x: Tensor, pixels: Sequence[tuple[int, ...]]) -> AttentionRows:
        """Returns two parallel hops: the pairwise weights of the pixels, and the weights that all positions share."""
        (pairs,) = super().attend(x, pixels).hops
        shared = shared_rows(self.unary(x), len(pixels))
        return AttentionRows(
            [replace(pairs, name="pairwise"), Hop(shared, pairs.values, is_signed=False, name="shared")]
        )

    def embeddings(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns whitened theta and phi, and g."""
        theta, phi, g = super().embeddings(x)
        return theta - theta.mean(dim=2, keepdim=True), phi - phi.mean(dim=2, keepdim=True), g


class DNLHead(ConvContextConvHead):
    """FCN-style head around the block; a new one computes the same as `fcn`, since the last norm starts at 0."""

    Config = DNLHeadConfig

    def __init__(self, cfg: DNLHeadConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes, DisentangledBlock(cfg.channels, cfg, has_norm=cfg.has_norm))


HEAD = DNLHead
