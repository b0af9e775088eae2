"""Context through a few bases, found by steps of expectation and maximisation.

Source: EMANet, Li et al. 2019, arXiv:1907.13426.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.ops.arguments import accumulation_dtype, agree


@torch.no_grad()
def expectation_context(x: Tensor, bases: Tensor, *, num_steps: int) -> tuple[Tensor, Tensor]:
    """The map rebuilt from its bases, `b c n`, and the bases that the steps end with, `b c r`.

    x `b c n`, bases `b c r`; float32, float64, bfloat16 or float16, under autocast not necessarily the same. A step
    shares every position out among the bases (softmax over r of x . basis) and makes each base the mean of positions by
    their shares, brought to length 1 (a mean of 0 stays). The last step's shares rebuild the map. Computed in float32
    (float64 for float64), under autocast too. As the authors have it, nothing flows back through the steps: neither
    result has a gradient.

    Raises ValueError when shapes, dtypes or devices do not agree, a map is empty, or num_steps is less than 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps: {num_steps}; expected at least 1")
    x, bases = agree(("x", x, "b c n"), ("bases", bases, "b c r"), autocasts=False)
    dtype = accumulation_dtype(x.dtype)
    wide, found = x.to(dtype), bases.to(dtype)
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
        for _ in range(num_steps):
            shares = torch.bmm(wide.mT, found).softmax(dim=-1)  # b n r: each row sums to 1
            found = F.normalize(torch.bmm(wide, F.normalize(shares, p=1, dim=1)), dim=1)
        rebuilt = torch.bmm(found, shares.mT)
    return rebuilt.to(x.dtype), found.to(bases.dtype)
