"""Context through a few regions, each a weighted mean of all positions, instead of through pairs of positions.

Sources: one region, GCNet, Cao et al. 2019, arXiv:1904.11492; a region for each class, OCRNet, Yuan et al. 2020,
arXiv:1909.11065.
"""

import torch
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
