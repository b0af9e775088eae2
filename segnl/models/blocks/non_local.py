"""The non-local block for sequences, images and videos.

Source: Non-local Neural Networks, Wang et al. 2018, arXiv:1711.07971.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnl.core.config import ChannelCount, Config
from segnl.models.blocks.attention_rows import AttentionRows, Hop
from segnl.models.blocks.conv import Pointwise, ZeroInitBatchNorm, apply_all
from segnl.ops.non_local import concatenation_context, dot_product_context, softmax_context

Pairwise = Literal["embedded_gaussian", "gaussian", "dot_product", "concatenation"]
_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class NonLocalConfig(Config):
    """Settings of the block."""

    pairwise: Pairwise = "embedded_gaussian"
    reduction: ChannelCount = 2
    """Channels are divided by it inside the block; the paper halves them."""
    use_scale: bool = True
    """Divides theta . phi of the embedded gaussian by the square root of its channels (the paper does not)."""
    subsample: bool = False
    """Max-pools phi and g by 2 in each spatial direction, which leaves a quarter of the pairs."""


class NonLocalBlock(nn.Module):
    """Non-local block: x + norm(W_z sum_j f(x_i, x_j) g_j / C(x)), where every position i attends to all positions j.

    dims: 1 (`b c n`), 2 (`b c h w`) or 3 (`b c t h w`). The last norm's gamma starts at 0 (W_z without a norm), so a
    new block is the identity. Differs from the paper: the projections have biases and start with Normal(0, 0.01), as in
    the authors' code.

    Raises ValueError for another `dims`.
    """

    def __init__(self, channels: int, cfg: NonLocalConfig, *, dims: int = 2, has_norm: bool = True) -> None:
        super().__init__()
        if dims not in _POOLS:
            raise ValueError(f"dims: {dims}; expected 1, 2 or 3")
        self.dims = dims
        self.pairwise = cfg.pairwise
        self.subsample = cfg.subsample
        inner = max(1, channels // cfg.reduction)
        self.scale = inner**-0.5 if cfg.use_scale and cfg.pairwise == "embedded_gaussian" else 1.0
        self.g = Pointwise(channels, inner, dims=dims)
        if cfg.pairwise != "gaussian":
            self.theta = Pointwise(channels, inner, dims=dims)
            self.phi = Pointwise(channels, inner, dims=dims)
        if cfg.pairwise == "concatenation":
            self.score = Pointwise(2 * inner, 1, dims=dims, has_bias=False, init="he")
        self.w_z = Pointwise(inner, channels, dims=dims, has_bias=not has_norm, init="he" if has_norm else "zero")
        self.norm = ZeroInitBatchNorm(channels) if has_norm else nn.Identity()
        self.norm.opens_attention = True  # type: ignore[assignment]  # optim.gamma_lr_mult

    def forward(self, x: Tensor, num_frames: int = 1) -> Tensor:
        """Maps x `b c *` to the same shape. Raises ValueError unless x has `dims` axes after the channels.

        num_frames: t above 1 takes x as clips, `b*t c *`, and returns the first frame of each, `b c *`, whose positions
        attend to those of all t frames.
        """
        space = self._space(x)
        if num_frames == 1:
            context = self.context(x)
        else:
            context, x = self._context_of_clips(x, num_frames), x[::num_frames]
        rows = context.transpose(1, 2)  # b n d
        if x.stride(1) == 1:  # channels_last
            y = _maps(F.linear(rows, self.w_z.matrix, self.w_z.bias), space)
        else:
            y = self.w_z.to_maps(rows).unflatten(2, space)
        return x + self.norm(y)

    def context(self, x: Tensor) -> Tensor:
        """Returns the input of W_z, `b d n`: the aggregate, and what a subclass adds to it."""
        return self.aggregate(x)

    def _context_of_clips(self, x: Tensor, num_frames: int) -> Tensor:
        """Returns the weighted sums `b d n` of the first frame of each clip over its t frames; x `b*t c *`."""
        query, key, g = self.embeddings(x)  # b*t c n, b*t c m, b*t d m
        key, g = (rows.unflatten(0, (-1, num_frames)).movedim(1, -2).flatten(-2) for rows in (key, g))  # b c t*m
        return self.weighted_sum(query[::num_frames], key, g)

    def aggregate(self, x: Tensor) -> Tensor:
        """Returns the weighted sum of values over all pairs, `b d n`, before W_z and the residual."""
        return self.weighted_sum(*self.embeddings(x))

    def weighted_sum(self, query: Tensor, key: Tensor, g: Tensor) -> Tensor:
        """Returns the sum `b d n` of the values g `b d m`; query and key as from `embeddings`."""
        if self.pairwise == "concatenation":
            return concatenation_context(query, key, g)
        if self.pairwise == "dot_product":
            return dot_product_context(query, key, g)
        return softmax_context(query, key, g, scale=self.scale)

    def values(self, x: Tensor) -> Tensor:
        """Returns g of every key position, `b d m`."""
        return self._pooled(self.g(x.flatten(2)), x)

    def attend(self, x: Tensor, pixels: Sequence[tuple[int, ...]]) -> AttentionRows:
        """Returns the attention weights of some positions of x `b c *`, not the matrix of all pairs.

        pixels: `dims` numbers each, (row, column) for maps `b c h w`.
        """
        space = self._space(x)
        positions = [int(position) for position in np.ravel_multi_index(np.transpose(pixels), space)]
        query, key, _ = self.embeddings(x)
        if self.pairwise == "concatenation":
            scores = (query[:, positions, None] + key[:, None]).relu()  # b q m
        else:
            scores = torch.einsum("bcq,bcm->bqm", query[:, :, positions], key)
        is_signed = self.pairwise in ("dot_product", "concatenation")
        rows = scores / scores.shape[2] if is_signed else (scores * self.scale).softmax(dim=-1)
        keys = [length // step for length, step in zip(space, self._pool_kernel(space), strict=True)]
        return AttentionRows([Hop(rows.unflatten(2, keys), self.values(x).unflatten(2, keys), is_signed)])

    def embeddings(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns theta `b c n`, phi `b c m` and g `b d m`, views of rows that the operators read without a copy.

        For the concatenation, theta and phi are replaced by their scores, `b n` and `b m`.
        """
        if self.pairwise == "concatenation":
            return *self._concatenation_scores(x), self.values(x)
        if self.pairwise == "gaussian":
            rows = _rows(x).contiguous()
            return rows.transpose(1, 2), self._pooled(rows, x), self.values(x)
        theta, phi, g = apply_all((self.theta, self.phi, self.g), x.flatten(2))
        return theta.transpose(1, 2), self._pooled(phi, x), self._pooled(g, x)

    def _concatenation_scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns w_theta . theta_i, `b n`, and w_phi . phi_j, `b m`, whose sum's relu is the concatenation's score."""
        maps = x.flatten(2)
        for_theta, for_phi = self.score.matrix.chunk(2, dim=1)  # 1 d each
        weight, bias = self.theta.followed_by(for_theta)
        if self.subsample:
            phi = self._pooled(self.phi(maps), x)  # b d m
            return _numbers(maps, weight, bias)[:, 0], _numbers(phi, for_phi, bias.new_zeros(1))[:, 0]
        phi_weight, phi_bias = self.phi.followed_by(for_phi)
        scores = _numbers(maps, torch.cat([weight, phi_weight]), torch.cat([bias, phi_bias]))  # b 2 n: reads x once
        return scores[:, 0], scores[:, 1]

    def _pooled(self, rows: Tensor, x: Tensor) -> Tensor:
        """Maps `b n d` to `b d m`, max-pooled where the block subsamples, but for time and directions of length 1."""
        if not self.subsample:
            return rows.transpose(1, 2)
        space = self._space(x)
        return _POOLS[self.dims](_maps(rows, space), self._pool_kernel(space)).flatten(2)

    def _pool_kernel(self, space: tuple[int, ...]) -> list[int]:
        if not self.subsample:
            return [1] * self.dims
        return [1 if self.dims == 3 and axis == 0 else min(2, length) for axis, length in enumerate(space)]

    def _space(self, x: Tensor) -> tuple[int, ...]:
        if x.dim() != self.dims + 2:
            raise ValueError(f"x: shape {tuple(x.shape)}; expected `b c` and {self.dims} more axes")
        return tuple(x.shape[2:])


# Moves the channels before flattening: flattened first, a batch of 1 gets strides with which torch's batch norm
# returns wrong gradients on the CPU (test_gradient_of_a_batch_of_one_equals_that_of_the_formula).
def _rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(1, -2)  # b n c; no copy where x is channels_last


def _maps(rows: Tensor, space: tuple[int, ...]) -> Tensor:
    return rows.unflatten(1, space).movedim(-1, 1)  # b c h w; in channels_last


def _numbers(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns weight . x + bias `b k n` for a small k; x `b c n`, weight `k c`, bias `k`."""
    return torch.bmm(weight.expand(x.shape[0], *weight.shape), x) + bias[:, None]
