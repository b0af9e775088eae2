"""Activation checkpointing: activations inside a block are not stored for backward but computed again."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segnl.models.norm import batch_norms


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Returns block(x) and stores only x for backward. Gradients and running statistics are those of block(x)."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _fixed_running_statistics(block)

    out: Tensor = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
    return out


@contextmanager
def _fixed_running_statistics(block: nn.Module) -> Iterator[None]:
    """Keeps the running statistics from being updated a second time by the same images.

    Sets momentum to 0. With the statistics switched off, batch norm would save other tensors for backward than in the
    first pass, which checkpoint refuses.
    """
    norms = [norm for norm in batch_norms(block) if norm.training]
    momenta = [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)
