"""Means of a map over grids of bins: pyramid pooling.

Source: spatial pyramid pooling, He et al. 2014, arXiv:1406.4729; PSPNet, Zhao et al. 2017, arXiv:1612.01105.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from segnl.ops.arguments import accumulation_dtype, agree, no_autocast


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


def _shares(length: int, num: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Returns the share of each of `length` positions in each of `num` means, `num length`; every row sums to 1."""
    place = torch.arange(length, device=device)
    cell = torch.arange(num, device=device)[:, None]
    is_inside = (place >= cell * length // num) & (place < ((cell + 1) * length + num - 1) // num)
    return is_inside.to(dtype) / is_inside.sum(dim=1, keepdim=True)
