"""Interface of backbones, and activation checkpointing of their blocks."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ClassVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segnl.core.config import Config, JSONDict
from segnl.models.norm import batch_norms


class BackboneConfig(Config):
    """Settings of every backbone."""

    name: str
    weights: str | None = None
    """Pretrained weights: a name (`imagenet`), the path of a file, or null for random ones."""


class Backbone(nn.Module):
    """Network from an image `b 3 H W` to stages c2..c5, `b c h w` each.

    A subclass sets `Config`, takes it as argument and sets `stage_channels`; its file ends with `BACKBONE = THE_CLASS`.
    """

    Config: ClassVar[type[BackboneConfig]]
    variants: ClassVar[Mapping[str, JSONDict]] = {}
    """Settings by the short names of segnl.create_model, such as `resnet50`; none: the name of the file is the name."""
    stage_channels: tuple[int, ...]
    """Channels of c2..c5."""
    activation_checkpointing = False
    """Stores only the input of each block for backward; the trainer sets it."""

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps a normalised float image `b 3 H W` to c2..c5."""
        raise NotImplementedError


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
