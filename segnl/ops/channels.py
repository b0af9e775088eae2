"""Context between channels: each channel's weighted sum over all channels.

Source: DANet, Fu et al. 2019, arXiv:1809.02983.
"""

import torch
from torch import Tensor

from segnl.ops.arguments import accumulation_dtype, agree


def channel_context(x: Tensor) -> Tensor:
    """sum_d softmax_d(-x_c . x_d) x_d: the less alike two channels are, the more one takes of the other.

    x `b c n`; float32, float64, bfloat16 or float16. Returns `b c n`: O(n c^2). The paper writes the softmax of the
    likeness itself; its authors' code subtracts that from its largest first, which is this. Products, softmax and sums
    in float32 (float64 for float64), under autocast too.

    Raises ValueError when the shape or the dtype does not fit, or the map is empty.
    """
    (x,) = agree(("x", x, "b c n"))
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
        wide = x.to(accumulation_dtype(x.dtype))
        weights = torch.bmm(wide, wide.mT).neg().softmax(dim=-1)  # b c d: row c asks, column d answers
        return torch.bmm(weights, wide).to(x.dtype)
