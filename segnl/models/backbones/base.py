"""Interface of backbones, and activation checkpointing of their blocks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segnl.core.config import Config, JSONDict
from segnl.core.errors import ConfigError
from segnl.models.norm import batch_norms
from segnl.models.weights.pretrained import backbone_tensors, load_backbone, weights_path


class BackboneConfig(Config):
    """Settings of every backbone."""

    name: str
    weights: str | None = None
    """Pretrained weights: a name (`imagenet`), the path of a file, or null for random ones."""
    frozen: bool | Annotated[int, Field(ge=1, le=4)] = False
    """Does not train the backbone, norm statistics included: all of it (true), or the stem and this many stages."""


class Backbone(nn.Module):
    """Network from an image `b 3 H W` to stages c2..c5, `b c h w` each.

    A subclass sets `Config`, takes it as argument and sets `stage_channels` and `stage_strides`; its file ends with
    `BACKBONE = THE_CLASS`.
    """

    Config: ClassVar[type[BackboneConfig]] = BackboneConfig
    variants: ClassVar[Mapping[str, JSONDict]] = {}
    """Settings by the short names of segnl.create_model, such as `resnet50`; none: the name of the file is the name."""
    is_self_initialised: ClassVar[bool] = True
    """Whether the constructor sets the initial values and the norms' eps and momentum, which nothing changes later.
    False: values follow from seed and module path alone (`initialise`), and norms from `model.batch_norm`."""
    stage_channels: tuple[int, ...]
    """Channels of c2..c5."""
    stage_strides: tuple[int, ...]
    """Strides of c2..c5 in pixels of the image; the last one is the output stride."""
    has_free_size = True
    """Whether an exported graph can leave the image's height and width free."""
    activation_checkpointing = False
    """Stores only the input of each block for backward; the trainer sets it."""

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps a normalised float image `b 3 H W` to c2..c5."""
        raise NotImplementedError

    def load_pretrained(self, weights: str) -> None:
        """Loads `model.backbone.weights`. Here: a file whose tensors have the names of this module's state_dict.

        A subclass overrides it to know names such as `imagenet`, or files with other tensor names.

        Raises ConfigError for an unknown name, CheckpointError when the file does not fit, MachineError when it cannot
        be fetched.
        """
        path = weights_path(weights)
        load_backbone(self, backbone_tensors(path), where=str(path))

    def frozen_part(self) -> Sequence[nn.Module]:
        """Returns the modules that `frozen: true` excludes from training: here, the whole backbone."""
        return [self]

    def stage_modules(self) -> Sequence[Sequence[nn.Module]]:
        """Returns the modules of the stem and of each stage, for freezing by stages and layer-wise learning rates.

        Raises ConfigError unless a subclass overrides it.
        """
        raise ConfigError(
            f"model.backbone: {type(self).__name__} does not define stage_modules(), which optim.layer_decay and "
            "a number in model.backbone.frozen need"
        )


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
