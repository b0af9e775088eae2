"""Context between channels: each channel's weighted sum over all channels.

Source: DANet, Fu et al. 2019, arXiv:1809.02983.
"""

import torch
from torch import Tensor

from segnl.ops.arguments import accumulation_dtype, agree, no_autocast


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
