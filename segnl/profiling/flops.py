"""Floating-point operations, counted from shapes alone: those that are executed, and those that the papers count.

A multiplication with its addition counts as two; convolutions and matrix products are counted, and what our operators
say of themselves (ops/library.py); norms, activations and softmax are not.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from segnl.models.blocks.criss_cross import CrissCrossBlock, CrissCrossConfig
from segnl.models.blocks.non_local import NonLocalBlock
from segnl.ops.non_local import softmax_context

PUBLISHED_REDUCTION = 8
"""Of the channels of query and key in CCNet's comparison; the values keep all channels, and nothing follows them."""


def num_parameters(model: nn.Module) -> int:
    """Weights outside the auxiliary head, which only training has; of a head's own all count."""
    return sum(values.numel() for name, values in model.named_parameters() if not name.startswith("auxiliary."))


def gflops(model: nn.Module, hw: tuple[int, int]) -> float:
    """Billions of operations that the network executes for one image of that size."""
    return count_flops(model, torch.zeros(1, 3, *hw)) / 1e9


@torch.no_grad()
def count_flops(module: Callable[..., object], *inputs: object) -> int:
    """Operations that `module(*inputs)` executes. Under torch's FakeTensorMode nothing is computed."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Fused attention is one operation, which not every version of the counter knows; the plain form computes the same.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return int(counter.get_total_flops())


@torch.no_grad()
def count_algorithm_flops(module: nn.Module, *inputs: object) -> int:
    """The same as a paper counts: for every non-local block all pairs of positions at the block's own widths.

    Differs from `count_flops` for the dot product (ours uses associativity) and the concatenation (sort and sums).
    """
    seen: list[tuple[NonLocalBlock, Tensor]] = []
    hooks = [
        block.register_forward_pre_hook(lambda block, inputs: seen.append((block, inputs[0])))
        for block in module.modules()
        if isinstance(block, NonLocalBlock)
    ]
    try:
        total = count_flops(module, *inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return total + sum(_dense_flops(block, x) - count_flops(block.aggregate, x) for block, x in seen)


def _dense_flops(block: NonLocalBlock, x: Tensor) -> int:
    """Of what the block gathers by pairs, before W_z."""
    batch, channels, *space = x.shape
    num_asking, num_answering = math.prod(space), block.values(x).shape[2]
    inner = block.g.weight.shape[0]
    is_gaussian = block.pairwise == "gaussian"
    projections = 1 if is_gaussian else 3  # g, theta and phi
    asked = channels if is_gaussian else inner
    pairs = pair_flops(block.pairwise, num_asking, num_answering, asked, inner)
    return int(batch * (2 * num_asking * channels * inner * projections + pairs))


def pair_flops(pairwise: str, num_asking: int, num_answering: int, query_channels: int, value_channels: int) -> int:
    """Scores of all pairs and the weighted sums, for one image."""
    # The concatenation's score is w^T [theta_i, phi_j], a product over both.
    scored = 2 * query_channels if pairwise == "concatenation" else query_channels
    return 2 * num_asking * num_answering * (scored + value_channels)


@torch.no_grad()
def published_flops(block: nn.Module, x: Tensor) -> int:
    """What the block's algorithm costs on x `1 c h w` at the widths of CCNet's comparison, whatever its own are.

    Query and key c / 8, value c, no projection after the sum; all pairs for non-local, h + w score slots a pixel and
    hop for criss-cross (the column's own slot is masked, and counted).
    """
    _, channels, h, w = x.shape
    narrow, n = max(1, channels // PUBLISHED_REDUCTION), h * w
    if isinstance(block, CrissCrossBlock):
        return criss_cross_flops(x, block.recurrence)
    if not isinstance(block, NonLocalBlock):
        raise ValueError(f"{type(block).__name__}; expected a non-local or a criss-cross block")
    is_gaussian = block.pairwise == "gaussian"  # which scores x itself, without theta and phi
    projections = 2 * n * channels * (channels + (0 if is_gaussian else 2 * narrow))
    return projections + pair_flops(block.pairwise, n, n, channels if is_gaussian else narrow, channels)


def criss_cross_flops(x: Tensor, recurrence: int) -> int:
    """Executed by a criss-cross block of the published widths on x `1 c h w`."""
    cfg = CrissCrossConfig(recurrence=recurrence, reduction=PUBLISHED_REDUCTION)
    return count_flops(CrissCrossBlock(x.shape[1], cfg), x)


def non_local_flops(x: Tensor) -> int:
    """Executed by an embedded gaussian of the published widths on x `1 c h w`."""
    return count_flops(_PublishedNonLocal(x.shape[1]), x)


class _PublishedNonLocal(nn.Module):
    """theta, phi and g, and the weighted sum: as in CCNet's comparison, with nothing after it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // PUBLISHED_REDUCTION)
        self.theta, self.phi = nn.Linear(channels, narrow), nn.Linear(channels, narrow)
        self.g = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2).transpose(1, 2)  # b n c
        return softmax_context(*(each(rows).transpose(1, 2) for each in (self.theta, self.phi, self.g)))


def published_comparison(x: Tensor) -> dict[str, float]:
    """GFLOPs of the modules of CCNet's comparison on x `1 c h w`, each counted from the operators that run here."""
    counts = {"non_local": non_local_flops(x)}
    counts |= {f"rcca R={recurrence}": criss_cross_flops(x, recurrence) for recurrence in (1, 2, 3)}
    return {name: count / 1e9 for name, count in counts.items()}
