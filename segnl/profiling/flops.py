"""Floating-point operations counted from shapes: those that are executed, and those that papers count.

A multiplication with its addition counts as two. Convolutions, matrix products and our own operators
(ops/library.py) are counted; norms, activations and softmax are not.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from segnl.models.blocks.criss_cross import CrissCrossBlock, CrissCrossConfig
from segnl.models.blocks.non_local import NonLocalBlock

PUBLISHED_REDUCTION = 8
"""Channel reduction of query and key in CCNet's comparison; values keep all channels, no projection follows."""

Result = TypeVar("Result")


def on_fake_tensors(compute: Callable[[], Result]) -> Result:
    """Returns compute(), run on torch's fake tensors, which have shapes but no data.

    Where an operation needs values (a head that reads a tensor's numbers), `compute` runs again on real tensors.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode():
            return compute()
    except RuntimeError:
        return compute()


def num_parameters(model: nn.Module) -> int:
    """Returns the number of weights that prediction needs: all but those of the auxiliary head."""
    return sum(values.numel() for name, values in model.named_parameters() if not name.startswith("auxiliary."))


@torch.no_grad()
def count_flops(module: Callable[..., object], *inputs: object) -> int:
    """Returns the number of operations that `module(*inputs)` executes."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Not every version of the counter knows fused attention; the math form computes the same.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return int(counter.get_total_flops())


@torch.no_grad()
def count_algorithm_flops(module: nn.Module, *inputs: object) -> int:
    """Returns the operations as papers count them: all pairs of positions for every non-local block.

    Differs from `count_flops` for the dot product (which runs by associativity) and the concatenation (sort and sums).
    """
    calls: list[tuple[NonLocalBlock, Tensor]] = []
    hooks = [
        block.register_forward_pre_hook(lambda block, inputs: calls.append((block, inputs[0])))
        for block in module.modules()
        if isinstance(block, NonLocalBlock)
    ]
    try:
        total = count_flops(module, *inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return total + sum(_all_pairs_flops(block, x) - count_flops(block.aggregate, x) for block, x in calls)


def _all_pairs_flops(block: NonLocalBlock, x: Tensor) -> int:
    """Returns the operations of theta, phi, g and all pairs, before W_z."""
    batch, channels, *space = x.shape
    num_keys, inner = block.values(x).shape[2], block.g.weight.shape[0]
    return batch * non_local_flops(block.pairwise, math.prod(space), num_keys, channels, inner, inner)


def non_local_flops(
    pairwise: str, num_queries: int, num_keys: int, channels: int, query_channels: int, value_channels: int
) -> int:
    """Returns the operations of projections, scores of all pairs and weighted sums, for one image.

    The gaussian scores x itself; the concatenation's score is w^T [theta_i, phi_j], a product over both.
    """
    is_gaussian = pairwise == "gaussian"
    projected = value_channels if is_gaussian else value_channels + 2 * query_channels
    score_channels = channels if is_gaussian else query_channels * (2 if pairwise == "concatenation" else 1)
    pairs = 2 * num_queries * num_keys * (score_channels + value_channels)
    return 2 * num_queries * channels * projected + pairs


@torch.no_grad()
def published_flops(block: nn.Module, x: Tensor) -> int:
    """Returns the operations of the block's algorithm on x `1 c h w` at the widths of CCNet's comparison.

    Query and key c / 8, value c, no projection after the sum; all pairs for non-local, h + w scores for each position
    and hop of criss-cross (the masked score of the column counts).

    Raises ValueError for another block than non-local or criss-cross.
    """
    if isinstance(block, CrissCrossBlock):
        return _criss_cross_flops(x, block.recurrence)
    if not isinstance(block, NonLocalBlock):
        raise ValueError(f"{type(block).__name__}; expected a non-local or a criss-cross block")
    return _published_non_local_flops(x, block.pairwise)


def published_comparison(x: Tensor) -> dict[str, float]:
    """Returns GFLOPs of the modules of CCNet's comparison on x `1 c h w`: an embedded gaussian and criss-cross."""
    flops = {"non_local": _published_non_local_flops(x, "embedded_gaussian")}
    flops |= {f"rcca R={recurrence}": _criss_cross_flops(x, recurrence) for recurrence in (1, 2, 3)}
    return {name: count / 1e9 for name, count in flops.items()}


def _published_non_local_flops(x: Tensor, pairwise: str) -> int:
    _, channels, h, w = x.shape
    query_channels = max(1, channels // PUBLISHED_REDUCTION)
    return non_local_flops(pairwise, h * w, h * w, channels, query_channels, channels)


def _criss_cross_flops(x: Tensor, recurrence: int) -> int:
    cfg = CrissCrossConfig(recurrence=recurrence, reduction=PUBLISHED_REDUCTION)
    return count_flops(CrissCrossBlock(x.shape[1], cfg), x)
