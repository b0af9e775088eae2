"""Blocks whose inner activations are not kept for backward but computed again there."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

BATCH_NORMS = nn.modules.batchnorm._BatchNorm


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x); of the block's activations only x is kept. Gradients and running statistics are the same."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_resting(block)

    out: Tensor = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
    return out


@contextmanager
def _statistics_resting(block: nn.Module) -> Iterator[None]:
    """The second time the same images must not move the running statistics again.

    Momentum 0 leaves them as they are. Without them batch norm would save other tensors for backward than the first
    time, which checkpoint refuses.
    """
    norms = [module for module in block.modules() if isinstance(module, BATCH_NORMS) and module.training]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    counts = [None if count is None else count.clone() for _, _, count in kept]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for (norm, momentum, count), before in zip(kept, counts, strict=True):
            norm.momentum = momentum
            if count is not None and before is not None:
                count.copy_(before)
