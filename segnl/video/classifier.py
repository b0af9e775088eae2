"""Video classifiers by name, and their files."""

import json
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import Config, suggest, validate
from segnl.core.errors import CheckpointError, ConfigError
from segnl.core.files import write_atomic
from segnl.core.outputs import mark
from segnl.models.backbones.resnet import ResNetConfig, published_name
from segnl.models.blocks.conv import draw
from segnl.models.blocks.non_local import Pairwise
from segnl.models.blocks.non_local_layout import NonLocalLayout
from segnl.models.initialisation import initialise
from segnl.models.input import InputConfig, Normalise
from segnl.models.segmenter import BatchNormConfig, set_batch_norm
from segnl.models.weights.checksums import CHECKSUM_KEY, read_safetensors, to_safetensors
from segnl.models.weights.pretrained import backbone_tensors, fetch, load_backbone
from segnl.models.weights.resnet import URLS, resnet_names
from segnl.models.weights.strict import build_and_load, load_strict, renamed, require_room
from segnl.video.resnet3d import Inflation, ResNet3d, ResNet3dConfig, inflate

NAMES = ("c2d_resnet50", "c2d_resnet101", "i3d_resnet50", "i3d_resnet101")
_SETTINGS = "segnl_video"
"""Key of the settings in the metadata of a file."""
_REMEDY = "expected a file of segnl.video.save; write or fetch it again"


class VideoConfig(Config):
    """Settings of a video classifier."""

    backbone: ResNet3dConfig = ResNet3dConfig()
    num_classes: int = Field(ge=1, le=100_000)
    dropout: float = Field(0.5, ge=0.0, lt=1.0)
    input: InputConfig = InputConfig()
    batch_norm: BatchNormConfig = BatchNormConfig()


class VideoClassifier(nn.Module):
    """Network from a clip to logits: backbone, mean over time, rows and columns, dropout, classifier."""

    def __init__(self, cfg: VideoConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.input = Normalise(cfg.input)
        self.backbone = ResNet3d(cfg.backbone)
        self.dropout = nn.Dropout(cfg.dropout)
        self.classifier = NormalInitLinear(self.backbone.out_channels, cfg.num_classes)
        set_batch_norm(self, cfg.batch_norm)

    def forward(self, clip: Tensor) -> Tensor:
        """Maps a clip `b 3 t H W` to logits `b k`: uint8 RGB is normalised inside, floating is normalised already."""
        if clip.dim() != 5:
            raise ValueError(f"clip: shape {tuple(clip.shape)}; expected `b c t H W`")
        if not clip.is_floating_point():
            frames = self.input(clip.transpose(1, 2).flatten(0, 1))  # b*t 3 H W
            clip = frames.unflatten(0, (clip.shape[0], clip.shape[2])).transpose(1, 2)
        return self.classifier(self.dropout(self.backbone(clip).mean(dim=(2, 3, 4))))


class NormalInitLinear(nn.Linear):
    """Linear layer that starts with Normal(0, 0.01), bias 0."""

    def reset_parameters(self) -> None:
        draw(self.weight, self.bias, "small")


def create_model(
    name: str,
    *,
    num_classes: int,
    non_local: NonLocalLayout = None,
    pairwise: Pairwise = "embedded_gaussian",
    subsample: bool = True,
    inflate_style: Literal["3x1x1", "3x3x3"] = "3x1x1",
    weights: str | Path | None = None,
    inflation: Inflation = "mean",
    dropout: float = 0.5,
    **backbone_settings: Any,
) -> VideoClassifier:
    """Builds a video classifier: clips `b 3 t H W` to logits `b k`, k = num_classes.

    name: c2d_resnet50, c2d_resnet101, i3d_resnet50 or i3d_resnet101. C2D has no kernel over time: frames meet in
    poolings and in non-local blocks only. non_local: "1", "5" or "10" blocks at the paper's places, or places such as
    {"layer3": [-2]}. pairwise, subsample: of the non-local blocks. inflate_style: the kernels of I3D. weights: of an
    image ResNet, "imagenet" or a file, inflated over time (`inflation`); None: random. backbone_settings: other keys
    of `segnl.video.resnet3d.ResNet3dConfig`.

    Random values follow torch.manual_seed.

    Raises ConfigError for an unknown name or setting, CheckpointError for weights that do not fit.
    """
    if name not in NAMES:
        raise ConfigError(f"segnl.video.create_model: {name!r}{suggest(name, NAMES)}")
    kind, _, depth = name.partition("_resnet")
    section: dict[str, Any] = {"depth": int(depth), "non_local": non_local, "inflate_style": inflate_style}
    section["non_local_block"] = {"pairwise": pairwise, "subsample": subsample}
    if kind == "c2d":
        section |= {"stem_kernel": [1, 7, 7], "inflated": "none"}
    mapping = {"backbone": section | backbone_settings, "num_classes": num_classes, "dropout": dropout}
    cfg = validate(VideoConfig, mapping, file="segnl.video.create_model")
    require_room(lambda: VideoClassifier(cfg))
    seed = int(torch.randint(2**31, ()))
    model = VideoClassifier(cfg)
    initialise(model, seed)
    if weights is not None:
        load_image_weights(model.backbone, str(weights), inflation)
    return model


def load_image_weights(backbone: ResNet3d, weights: str, inflation: Inflation) -> None:
    """Loads an image ResNet's weights, inflated over time; non-local blocks keep their initial values.

    Raises ConfigError where none are published for this backbone, CheckpointError for a file that does not fit.
    """
    cfg = backbone.cfg
    if weights == "imagenet":
        image_resnet = ResNetConfig(depth=cfg.depth, width=cfg.base_channels / 64, blocks=cfg.blocks)
        path = fetch(URLS[published_name(image_resnet)])
    else:
        path = Path(weights)
    state = backbone_tensors(path)
    source_name, stem = resnet_names(state, str(path))
    if stem != "plain":
        raise CheckpointError(f"{path}: has a deep stem; expected a ResNet with one 7x7 convolution, as torchvision's")
    inflated = inflate(state, backbone, source_name, inflation)
    load_backbone(backbone, inflated, source_name, where=str(path), skip="non_local.")


def save(model: VideoClassifier, path: str | Path, *, command: str | None = None) -> None:
    """Writes weights and settings to a .safetensors file, from which `load` builds the model again.

    command: that of segnl which the user gave the path; see core/outputs.py.
    """
    about = {_SETTINGS: json.dumps(model.cfg.model_dump(mode="json"))}
    if command is not None:
        about["written_by"] = mark(command)
    write_atomic(Path(path), to_safetensors(model.state_dict(), about))


def load(path: str | Path) -> VideoClassifier:
    """Builds the model of a file that `save` or `segnl import --from mmaction` wrote, in evaluation mode.

    Warns where a file has no checksum: one of a version of segnl that wrote none. Raises CheckpointError for a damaged
    or another file.
    """
    tensors, metadata = read_safetensors(Path(path), _REMEDY)
    settings = metadata.get(_SETTINGS)
    if settings is None:
        raise CheckpointError(f"{path}: no video classifier of segnl; expected a file of segnl.video.save")
    if CHECKSUM_KEY not in metadata:
        warnings.warn(f"{path}: has no checksum, so damage is not noticed; load and save it to add one", stacklevel=2)
    try:
        cfg = validate(VideoConfig, json.loads(settings), file=str(path))
    except (ValueError, RecursionError, ConfigError) as err:
        raise CheckpointError(f"{path}: its settings cannot be read ({err})") from err
    return build_and_load(
        lambda: VideoClassifier(cfg),
        lambda model: load_strict(model, tensors, renamed({}), where=str(path)),
        where=str(path),
    ).eval()
