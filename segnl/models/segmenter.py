"""The whole network: input, backbone, head, the one classifier, and the auxiliary head."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from pydantic import Field, SerializeAsAny, create_model, model_validator
from torch import Tensor, nn

from segnl.core.config import Config, validate
from segnl.core.errors import ConfigError
from segnl.models.backbones.base import BackboneConfig
from segnl.models.blocks.auxiliary import AuxConfig, AuxiliaryHead
from segnl.models.blocks.conv import NormalInitConv2d
from segnl.models.find import BACKBONES, HEADS
from segnl.models.heads.base import HeadConfig
from segnl.models.initialisation import initialise
from segnl.models.input import InputConfig, Normalise
from segnl.models.norm import Norm, batch_norms, freeze_statistics, use_group_norm
from segnl.models.weights.backbone import load_backbone_weights


class BatchNormConfig(Config):
    """Settings of every batch norm in the model."""

    eps: float = Field(1e-5, gt=0.0)
    momentum: float = Field(0.1, gt=0.0, le=1.0)


class ModelConfig(Config):
    """The section `model` of a recipe. `model_schema` gives the one that knows a tree's own backbone and head."""

    backbone: SerializeAsAny[BackboneConfig]
    head: SerializeAsAny[HeadConfig]
    aux: AuxConfig | None = AuxConfig()
    align_corners: bool = False
    """How logits are upsampled: the pixel centres of the corners coincide (true) or the outer edges do."""
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """Of whole channels, before the classifier."""
    input: InputConfig = InputConfig()
    norm: Norm = "auto"
    """batch; sync: statistics over all ranks (one process: batch); auto: sync on several ranks, else batch; frozen:
    running statistics stay as they are, gamma and beta learn; group: no statistics at all, another network."""
    batch_norm: BatchNormConfig = BatchNormConfig()

    @model_validator(mode="after")
    def _group_norm_has_no_statistics(self) -> Self:
        if self.norm == "group" and self.backbone.weights is not None:
            raise ValueError("norm: group has no place for pretrained statistics; set backbone.weights to null")
        return self


def model_schema(mapping: Any, *, file: str, at: str = "model") -> type[ModelConfig]:
    """The ModelConfig whose backbone and head have the settings of the parts that `tree` names.

    Raises ConfigError when a name is missing or unknown.
    """
    found = {}
    for key, find in (("backbone", BACKBONES.find), ("head", HEADS.find)):
        part = mapping.get(key) if isinstance(mapping, Mapping) else None
        name = part.get("name") if isinstance(part, Mapping) else None
        if not isinstance(name, str):
            raise ConfigError(f"{file}: {at}.{key}.name: missing; add it, for instance {{name: {_example(key)}}}")
        try:
            found[key] = (find(name).Config, ...)
        except ConfigError as err:
            raise ConfigError(f"{file}: {err}") from err
    schema: type[ModelConfig] = create_model("ModelConfig", __base__=ModelConfig, **found)  # type: ignore[call-overload]
    return schema


def _example(key: str) -> str:
    return "resnet" if key == "backbone" else "rcca"


def model_config(mapping: Mapping[str, Any], *, file: str, at: str = "model") -> ModelConfig:
    """The section `model` of a recipe, checked. Raises ConfigError with the dotted path."""
    return validate(model_schema(mapping, file=file, at=at), dict(mapping), file=file, at=at)


class Logits(NamedTuple):
    """Class scores at feature size: main `b k h w`, and others by name, each for a loss of its own."""

    main: Tensor
    aux: dict[str, Tensor]


class Segmenter(nn.Module):
    """Normalised image to class scores; upsampling is the loss's and the inference's business.

    Modules: input (pixels to normalised image), backbone, head, dropout, classifier, auxiliary (or None).
    """

    def __init__(self, cfg: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.align_corners = cfg.align_corners
        self.input = Normalise(cfg.input)
        self.backbone = BACKBONES.find(cfg.backbone.name)(cfg.backbone)
        channels = self.backbone.stage_channels
        self.head = HEADS.find(cfg.head.name)(cfg.head, channels, num_classes)
        self.head.align_corners = cfg.align_corners
        self.dropout = nn.Dropout2d(cfg.dropout)
        self.classifier = NormalInitConv2d(self.head.out_channels, num_classes, 1)
        self.auxiliary = None if cfg.aux is None else AuxiliaryHead(cfg.aux, channels[cfg.aux.stage], num_classes)
        self.aux_stage = None if cfg.aux is None else cfg.aux.stage
        self.aux_weights = dict(self.head.aux_weights) | ({} if cfg.aux is None else {"auxiliary": cfg.aux.weight})
        """Of the losses of `Logits.aux`, by name."""
        set_batch_norm(self, cfg.batch_norm)
        self.has_frozen_norm = cfg.norm == "frozen"
        if cfg.norm == "group":
            use_group_norm(self)

    def train(self, mode: bool = True) -> "Segmenter":
        """As torch has it, but frozen norms stay as in evaluation."""
        super().train(mode)
        if self.has_frozen_norm:
            freeze_statistics(self)
        return self

    def forward(self, image: Tensor) -> Logits:
        """image: float `b 3 H W`, normalised. Returns logits at feature size, `b k h w`.

        The auxiliary head runs in training only; so may what the head itself offers beside its context.
        """
        stages = self.backbone(image)
        aux = {}
        if self.training and self.auxiliary is not None:
            aux["auxiliary"] = self.auxiliary(stages[self.aux_stage])
        # Drawn before the head, so that one with dropout of its own leaves these numbers as every other head has them.
        kept = self.dropout(image.new_ones(image.shape[0], self.head.out_channels, 1, 1)) if self.training else None
        out = self.head(stages)
        context = out.context if kept is None else out.context * kept.to(out.context.dtype)
        return Logits(self.classifier(context), aux | out.aux_logits)


def set_batch_norm(model: nn.Module, cfg: BatchNormConfig) -> None:
    """Sets eps and momentum of every batch norm in `model`."""
    for norm in batch_norms(model):
        norm.eps, norm.momentum = cfg.eps, cfg.momentum


def new_segmenter(cfg: ModelConfig, num_classes: int, seed: int) -> Segmenter:
    """A model at the start of its training: parameters drawn from the seed, then the backbone's pretrained weights.

    A model that a checkpoint is loaded into needs neither: `Segmenter(cfg, num_classes)`.

    Raises ConfigError when the weights do not fit the backbone's settings, CheckpointError when the file does not,
    MachineError when it cannot be fetched.
    """
    model = Segmenter(cfg, num_classes)
    initialise(model, seed)
    load_backbone_weights(model.backbone, cfg.backbone)
    return model
