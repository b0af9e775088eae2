"""Context without pairs of positions: from regions, channels, bases or the cells of grids.

Sources: one region, GCNet, Cao et al. 2019, arXiv:1904.11492; a region for each class, OCRNet, Yuan et al. 2020,
arXiv:1909.11065; channels, DANet, Fu et al. 2019, arXiv:1809.02983; bases, EMANet, Li et al. 2019, arXiv:1907.13426;
grids, He et al. 2014, arXiv:1406.4729, and PSPNet, Zhao et al. 2017, arXiv:1612.01105.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.ops.arguments import accumulation_dtype, agree, no_autocast


def region_context(scores: Tensor, g: Tensor) -> Tensor:
    """sum_j softmax_j(scores_rj) g_j: the mean of g over each region.

    scores `b r m`, g `b d m`; float32, float64, bfloat16 or float16. Returns `b d r`: O(m r d).
    The softmax and the sums are taken in float32 (float64 for float64), under autocast too.

    Raises ValueError when shapes, dtypes or devices do not agree, or a map is empty.
    """
    scores, g = agree(("scores", scores, "b r m"), ("g", g, "b d m"))
    dtype = accumulation_dtype(g.dtype)
    with no_autocast(g):
        weights = scores.to(dtype).softmax(dim=-1)  # b r m: over m, each row sums to 1
        return torch.bmm(g.to(dtype), weights.mT).to(g.dtype)  # b d r


def channel_context(x: Tensor) -> Tensor:
    """sum_d softmax_d(-x_c . x_d) x_d: a channel takes more of the channels that are less similar to it.

    x `b c n`; float32, float64, bfloat16 or float16. Returns `b c n`: O(n c^2). The paper writes the softmax of
    the similarity itself; its authors' code first subtracts the similarity from its largest, which is this. Products,
    softmax and sums are taken in float32 (float64 for float64), under autocast too.

    Raises ValueError when the shape or the dtype does not fit, or the map is empty.
    """
    (x,) = agree(("x", x, "b c n"))
    with no_autocast(x):
        wide = x.to(accumulation_dtype(x.dtype))
        weights = torch.bmm(wide, wide.mT).neg().softmax(dim=-1)  # b c d: over d, each row sums to 1
        return torch.bmm(weights, wide).to(x.dtype)


@torch.no_grad()
def expectation_context(x: Tensor, bases: Tensor, *, num_steps: int) -> tuple[Tensor, Tensor]:
    """The map rebuilt from its bases, `b c n`, and the bases after the last step, `b c r`.

    x `b c n`, bases `b c r`; float32, float64, bfloat16 or float16, which may differ under autocast. A step weights
    the bases at every position (softmax over r of x . basis) and replaces each base by the mean of the positions under
    its weights, scaled to length 1 (a mean of 0 stays 0). The last step's weights rebuild the map. Computed in float32
    (float64 for float64), under autocast too. As in the authors' code, neither result has a gradient.

    Raises ValueError when shapes, dtypes or devices do not agree, a map is empty, or num_steps is less than 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps: {num_steps}; expected at least 1")
    x, bases = agree(("x", x, "b c n"), ("bases", bases, "b c r"), autocasts=False)
    dtype = accumulation_dtype(x.dtype)
    wide, new_bases = x.to(dtype), bases.to(dtype)
    with no_autocast(x):
        for _ in range(num_steps):
            weights = torch.bmm(wide.mT, new_bases).softmax(dim=-1)  # b n r: over r, each row sums to 1
            new_bases = F.normalize(torch.bmm(wide, F.normalize(weights, p=1, dim=1)), dim=1)  # b c r
        rebuilt = torch.bmm(new_bases, weights.mT)  # b c n
    return rebuilt.to(x.dtype), new_bases.to(bases.dtype)


def pyramid_means(x: Tensor, bins: Sequence[int]) -> Tensor:
    """The mean of every cell of the grids 1 x 1, 2 x 2 ... that `bins` names: floating `b c h w` to `b c r`.

    r = the sum of bins squared, grid after grid, each row by row. Cell i of s covers rows floor(i h / s) to
    ceil((i + 1) h / s), as in torch's adaptive pooling: neighbours overlap where s does not divide h. Sums are taken in
    float32 (float64 for float64), under autocast too. They are products: deterministic on every device, and exportable
    for any size.

    Raises ValueError when x is no floating map of four axes or is empty, or a number of bins is not positive.
    """
    (x,) = agree(("x", x, "b c h w"), autocasts=False)
    if not bins or min(bins) < 1:
        raise ValueError(f"bins: {tuple(bins)}; expected numbers of at least 1")
    dtype, (h, w) = accumulation_dtype(x.dtype), x.shape[2:]
    by_row, by_column = (torch.cat([_shares(n, s, x.device, dtype) for s in bins]) for n in (h, w))
    with no_autocast(x):
        # The map is read once for all grids, in either memory layout; `s` runs over the rows of all grids.
        bands = torch.einsum("sh,bchw->bcsw", by_row, x.to(dtype))
        rows, columns = bands.split(list(bins), dim=2), by_column.split(list(bins))
        means = [torch.matmul(band, shares.mT).flatten(2) for band, shares in zip(rows, columns, strict=True)]
    return torch.cat(means, dim=2).to(x.dtype)


def pyramid_spread(rows: Tensor, bins: Sequence[int], hw: tuple[int, int]) -> Tensor:
    """Spreads weights of the cells of `pyramid_means`, `b q r`, over the positions of a map `h w`: `b q h w`.

    The transpose of `pyramid_means`: sum_r rows_r mean_r = sum_j spread_j x_j. A row's sum stays the same.
    """
    (h, w), spread = hw, rows.new_zeros(*rows.shape[:2], *hw)
    for s, cells in zip(bins, rows.split([s * s for s in bins], dim=2), strict=True):
        by_row, by_column = (_shares(length, s, rows.device, rows.dtype) for length in (h, w))
        spread += by_row.mT @ cells.unflatten(2, (s, s)) @ by_column
    return spread


def _shares(length: int, num: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Returns the share of each of `length` positions in each of `num` means, `num length`; every row sums to 1."""
    place = torch.arange(length, device=device)
    cell = torch.arange(num, device=device)[:, None]
    is_inside = (place >= cell * length // num) & (place < ((cell + 1) * length + num - 1) // num)
    return is_inside.to(dtype) / is_inside.sum(dim=1, keepdim=True)
