"""Context through a few bases that steps of expectation and maximisation find.

Source: EMANet, Li et al. 2019, arXiv:1907.13426.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.ops.arguments import accumulation_dtype, agree, no_autocast


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
