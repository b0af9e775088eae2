"""The whole network: normalisation, backbone, head, classifier and auxiliary head."""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Annotated, Any, NamedTuple, Self, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from segnl.core.config import Config, JSONDict, validate
from segnl.core.distributed import GLOO_PREFIX
from segnl.core.errors import ConfigError, as_segnl_error, first_line
from segnl.models.backbones.base import Backbone, BackboneConfig
from segnl.models.blocks.auxiliary import AuxConfig, AuxiliaryHead
from segnl.models.blocks.conv import NormalInitConv2d
from segnl.models.find import BACKBONES, HEADS
from segnl.models.heads.base import HeadConfig, HeadOutput
from segnl.models.initialisation import initialise, seeded
from segnl.models.input import InputConfig, Normalise, first_convolution, set_channels, widened
from segnl.models.norm import Norm, batch_norms, freeze_statistics, use_group_norm
from segnl.models.weights.strict import require_room
from segnl.ops.resize import resize


class BatchNormConfig(Config):
    """Settings of every batch norm in the model, except for those of a backbone that initialises itself."""

    eps: float = Field(1e-5, gt=0.0, le=1.0)
    momentum: float = Field(0.1, gt=0.0, le=1.0)


class ModelConfig(Config):
    """Section `model` of a recipe."""

    backbone: Annotated[BackboneConfig, BACKBONES]
    head: Annotated[HeadConfig, HEADS]
    aux: AuxConfig | None = AuxConfig()
    align_corners: bool = False
    """Upsampling of logits: aligns the centres of the corner pixels (true) or the outer edges (false)."""
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """Dropout of whole channels before the classifier."""
    input: InputConfig = InputConfig()
    norm: Norm = "auto"
    """batch; sync: statistics over all ranks (one process: batch); auto: sync on several ranks, else batch; frozen:
    fixed running statistics, gamma and beta learn; group: no running statistics, which changes the network."""
    batch_norm: BatchNormConfig = BatchNormConfig()

    @model_validator(mode="after")
    def _group_norm_has_no_statistics(self) -> Self:
        if self.norm == "group" and self.backbone.weights is not None:
            raise ValueError("norm: group has no place for pretrained statistics; set backbone.weights to null")
        return self


def model_config(mapping: Mapping[str, Any], *, file: str, at: str = "model") -> ModelConfig:
    """Returns the checked section `model` of a recipe. Raises ConfigError with the dotted path of a wrong key."""
    return validate(ModelConfig, dict(mapping) if isinstance(mapping, Mapping) else mapping, file=file, at=at)


class Logits(NamedTuple):
    """Logits at feature size: `main`, `b k h w`, and auxiliary ones by name, each with its own loss."""

    main: Tensor
    aux: dict[str, Tensor]


Result = TypeVar("Result")
REFUSALS = (AssertionError, ValueError, RuntimeError)
"""What layers of torch and timm raise for sizes that they cannot take."""


def _refuses_sizes(compute: Callable[..., Result]) -> Callable[..., Result]:
    """Lets a method raise ConfigError for images whose number or size the network's layers cannot take."""

    @functools.wraps(compute)
    def computed(model: nn.Module, image: Tensor, *stages: Any) -> Result:
        try:
            return compute(model, image, *stages)
        except REFUSALS as err:
            if type(err) not in REFUSALS or as_segnl_error(err) is not None or GLOO_PREFIX.match(str(err)):
                raise  # a subclass, memory that ends, a lost rank: not of sizes
            raise ConfigError(
                f"model: cannot take images of shape {tuple(image.shape)} ({first_line(err)}); choose another size or "
                "number, such as data.crop_hw, train.batch_size or eval.size_multiple, or other layers (--debug says "
                "which refuses)"
            ) from err

    return computed


class Segmenter(nn.Module):
    """Network from a normalised image to logits at feature size; loss and inference upsample them.

    Modules: input (pixels to normalised image), backbone, head, dropout, classifier, auxiliary (or None).
    """

    init_report: JSONDict | None = None
    """Account of the trained weights that a new network started from (segnl/runs/init.py)."""

    def __init__(self, cfg: ModelConfig, num_classes: int, *, seed: int | None = None, num_frames: int = 1) -> None:
        """seed: draws the initial parameters; None leaves them undefined, for weights that are loaded.

        num_frames: of a clip, data.frames; the network labels the first. Raises ConfigError for a head that sees one.
        """
        super().__init__()
        self.num_classes = num_classes
        self.num_frames = num_frames
        self.image_channels = cfg.input.channels * num_frames
        """Channels of an image: those of all its frames."""
        self.align_corners = cfg.align_corners
        self.input = Normalise(cfg.input, num_frames)
        with nullcontext() if seed is None else seeded(seed, "backbone"):
            self.backbone = BACKBONES.find(cfg.backbone.name)(cfg.backbone)
            if cfg.input.channels != 3:
                set_channels(first_convolution(self.backbone, 3), cfg.input.channels)
        channels = self.backbone.stage_channels
        with nullcontext() if seed is None else seeded(seed, "head"):
            self.head = HEADS.find(cfg.head.name)(cfg.head, channels, num_classes)
        if num_frames > 1 and not self.head.takes_frames:
            raise ConfigError(
                f"data.frames: {num_frames}, but head '{cfg.head.name}' sees one frame; leave it at 1 or take non_local"
            )
        self.head.align_corners, self.head.num_frames = cfg.align_corners, num_frames
        self.dropout = nn.Dropout2d(cfg.dropout)
        self.classifier = NormalInitConv2d(self.head.out_channels, num_classes, 1)
        self.auxiliary = None if cfg.aux is None else AuxiliaryHead(cfg.aux, channels[cfg.aux.stage], num_classes)
        self.aux_stage = None if cfg.aux is None else cfg.aux.stage
        self.aux_weights = dict(self.head.aux_weights) | ({} if cfg.aux is None else {"auxiliary": cfg.aux.weight})
        """Weights of the losses of `Logits.aux` by name."""
        for module in self.children():
            if not getattr(module, "is_self_initialised", False):
                set_batch_norm(module, cfg.batch_norm)
        self.has_frozen_norm, self.frozen = cfg.norm == "frozen", cfg.backbone.frozen
        if cfg.norm == "group":
            use_group_norm(self)
        if seed is not None:
            initialise(self, seed)
        for module in self.frozen_modules():
            module.requires_grad_(False)

    def frozen_modules(self) -> list[nn.Module]:
        """Returns the modules that `model.backbone.frozen` excludes from training."""
        if isinstance(self.frozen, bool):
            return [*self.backbone.frozen_part()] if self.frozen else []
        return [module for modules in self.backbone.stage_modules()[: self.frozen + 1] for module in modules]

    def train(self, mode: bool = True) -> "Segmenter":
        """Sets training or evaluation mode; frozen norms and frozen modules stay in evaluation mode."""
        super().train(mode)
        for module in self.frozen_modules():
            module.eval()
        if self.has_frozen_norm:
            freeze_statistics(self)
        return self

    @_refuses_sizes
    def forward(self, image: Tensor, stages: Sequence[Tensor] | None = None) -> Logits:
        """Maps a normalised float image `b 3 H W` to logits `b k h w`; auxiliary ones mostly in training only.

        image: `b t*3 H W` for t frames; the logits are those of the first.
        stages: the backbone's maps c2..c5 of the image, which then tells batch size and type only; None: computed here.
        """
        stages = self.stages(image) if stages is None else stages
        aux = {}
        if self.training and self.auxiliary is not None and self.aux_stage is not None:
            aux["auxiliary"] = self.auxiliary(stages[self.aux_stage][:: self.num_frames])
        # Drawn before the head, so that a head with its own dropout does not change the random numbers here.
        mask = self.dropout(image.new_ones(image.shape[0], self.head.out_channels, 1, 1)) if self.training else None
        out = self.head(stages)
        name, channels = type(self.head).__name__, self.head.out_channels
        if not isinstance(out, HeadOutput):
            raise ConfigError(f"model.head: {name} returned a {type(out).__name__}; expected HeadOutput(context)")
        if out.context.shape[1] != channels:
            raise ConfigError(
                f"model.head: {name} returned {out.context.shape[1]} channels, but its out_channels is {channels}"
            )
        context = out.context if mask is None else out.context * mask.to(out.context.dtype)
        return Logits(self.classifier(context), aux | out.aux_logits)

    @_refuses_sizes
    def stages(self, image: Tensor) -> list[Tensor]:
        """Maps a normalised image `b t*3 H W` to the stages of all t frames, `b*t c h w`."""
        frames = image if self.num_frames == 1 else image.unflatten(1, (self.num_frames, -1)).flatten(0, 1)
        stages: list[Tensor] = self.backbone(frames)
        return stages


class SegmentationModel(nn.Module):
    """A segmenter whose logits have the image's size.

    Images are RGB, uint8 `b 3 H W`, which are normalised here, or floating, which are normalised already.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: Tensor) -> Tensor:
        """Maps images `b 3 H W` to logits `b k H W`. Raises ValueError for other shapes and types."""
        main = self.low_resolution(image).main
        return resize(main, (image.shape[-2], image.shape[-1]), align_corners=self.segmenter.align_corners)

    def low_resolution(self, image: Tensor) -> Logits:
        """Maps images `b 3 H W` to logits `b k h w` at feature size, for the losses of segnl.losses."""
        channels = self.segmenter.image_channels
        is_number = image.is_floating_point() or image.dtype == torch.uint8
        if image.dim() != 4 or image.shape[1] != channels or not is_number:
            raise ValueError(
                f"image: {image.dtype} {tuple(image.shape)}; expected uint8 or floating `b {channels} H W`"
            )
        if not image.is_floating_point():
            image = self.segmenter.input(image).to(self.segmenter.classifier.weight.dtype)
        logits: Logits = self.segmenter(image)
        return logits


def set_batch_norm(model: nn.Module, cfg: BatchNormConfig) -> None:
    """Sets eps and momentum of every batch norm in `model`."""
    for norm in batch_norms(model):
        norm.eps, norm.momentum = cfg.eps, cfg.momentum


def new_segmenter(
    cfg: ModelConfig, num_classes: int, seed: int, *, load_backbone: bool = True, num_frames: int = 1
) -> Segmenter:
    """Builds a model for training: parameters drawn from the seed, then the backbone's pretrained weights.

    load_backbone: False leaves the backbone random, whatever `cfg` says.

    Raises ConfigError when the weights do not fit the backbone's settings or the network this machine's memory,
    CheckpointError when the file does not, MachineError when it cannot be fetched.
    """
    require_room(lambda: Segmenter(cfg, num_classes, num_frames=num_frames))
    model = Segmenter(cfg, num_classes, seed=seed, num_frames=num_frames)
    if load_backbone and cfg.backbone.weights is not None:
        if cfg.input.channels == 3:
            model.backbone.load_pretrained(cfg.backbone.weights)
        else:
            _load_widened(model.backbone, cfg.backbone.weights, cfg.input)
    return model


def _load_widened(backbone: Backbone, weights: str, cfg: InputConfig) -> None:
    """Loads weights for RGB images into a backbone for another number of channels."""
    conv = first_convolution(backbone, cfg.channels)
    set_channels(conv, 3)
    backbone.load_pretrained(weights)
    weight = widened(conv.weight.detach(), cfg.channels, cfg.widening)
    set_channels(conv, cfg.channels)
    conv.weight.data.copy_(weight)
