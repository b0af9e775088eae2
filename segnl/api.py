"""Python interface: the functions that `import segnl` offers (docs/python.md)."""

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segnl.core.config import suggest, validate
from segnl.core.errors import ConfigError
from segnl.data.base import SegmentationData
from segnl.data.cache import cache_samples
from segnl.data.find import DATASETS
from segnl.data.sample import Sample
from segnl.evaluation.attention import AttentionRow, ImageAttention, image_attention
from segnl.evaluation.predictor import Image, Predictor, as_pixels, load
from segnl.labels.table import ClassTable
from segnl.models.find import BACKBONES, HEADS, backbone_variants
from segnl.models.heads.base import ContextHead
from segnl.models.initialisation import initialise
from segnl.models.segmenter import SegmentationModel, model_config, new_segmenter
from segnl.models.weights.strict import require_room
from segnl.runs import build
from segnl.runs import recipe as recipes
from segnl.runs.recipe import Recipe

__all__ = [
    "attention",
    "build_model",
    "create_head",
    "create_model",
    "list_backbones",
    "list_heads",
    "load",
    "load_recipe",
    "open_dataset",
]

_MAX_COUNT = 65_536
"""Of classes and channels; more are a typing error."""


def list_heads() -> list[str]:
    """Returns the names of segnl's heads."""
    return HEADS.names()


def list_backbones() -> list[str]:
    """Returns the names of segnl's backbones."""
    return sorted(backbone_variants())


def create_model(
    head: str,
    *,
    backbone: str = "resnet50",
    num_classes: int,
    output_stride: int | None = None,
    weights: str | Path | None = None,
    auxiliary: bool = False,
    **head_settings: Any,
) -> SegmentationModel:
    """Builds a network: images `b 3 H W` to logits `b k H W`, k = num_classes.

    head, backbone: one of `list_heads()` and `list_backbones()`, or the dotted name of your own module; a backbone may
    also be `timm/NAME`, any of timm's networks. output_stride: 8, 16 or 32, for backbones that have this setting; None:
    8, and for timm's the network's own. weights: of the backbone: "imagenet", another
    known name, or a file; None: random. auxiliary: adds an auxiliary head, whose logits `low_resolution` returns in
    training. head_settings: the keys that a recipe may hold under `model.head`.

    Random values follow torch.manual_seed.

    Raises ConfigError for an unknown name or setting, CheckpointError for weights that do not fit.
    """
    _require_count("create_model: num_classes", num_classes)
    if output_stride is not None:
        _require_count("create_model: output_stride", output_stride)
    if head_settings.get("name", head) != head:
        raise ConfigError(
            f"segnl.create_model: name: {head_settings['name']!r}, but the head is {head!r}; leave it out"
        )
    variants = backbone_variants()
    if not isinstance(backbone, str):
        raise ConfigError(f"segnl.create_model: backbone: holds {backbone!r}; expected a name")
    if backbone.startswith("timm/"):
        variants = {backbone: {"name": "timm", "model": backbone.removeprefix("timm/")}}
    if backbone not in variants and "." not in backbone:
        known = suggest(backbone, [*variants, "timm/NAME"])
        raise ConfigError(f"segnl.create_model: backbone: holds {backbone!r}{known}")
    section = variants.get(backbone, {"name": backbone})
    stride = BACKBONES.find(section["name"]).Config.model_fields.get("output_stride")
    if stride is not None:
        default = 8 if stride.default is not None else None
        section = section | {"output_stride": output_stride or default}
    mapping = {
        "backbone": section | {"weights": None if weights is None else str(weights)},
        "head": head_settings | {"name": head},
        "aux": {} if auxiliary else None,
    }
    cfg = model_config(mapping, file="segnl.create_model")
    return SegmentationModel(new_segmenter(cfg, num_classes, _draw_seed()))


def create_head(name: str, in_channels: int | Sequence[int], *, num_classes: int = 0, **settings: Any) -> "Head":
    """Builds a head alone: a map `b c h w`, or the list of stages, to the context `b d h w`, d = out_channels.

    in_channels: c, or those of all stages, the finest first. A single map takes the place of all four stages.
    num_classes: for heads whose context depends on it (ocr). settings: the keys of a recipe under `model.head`.

    Raises ConfigError for an unknown name or setting.
    """
    head_class = HEADS.find(name)
    if num_classes:
        _require_count("create_head: num_classes", num_classes)
    elif head_class.needs_num_classes:
        raise ConfigError(f"segnl.create_head: {name}: the context depends on the number of classes; give num_classes")
    cfg = validate(head_class.Config, {"name": name, **settings}, file="segnl.create_head")
    stage_channels = tuple(in_channels) if isinstance(in_channels, Sequence) else (in_channels,) * 4
    for channels in stage_channels:
        _require_count("create_head: in_channels", channels)
    require_room(lambda: head_class(cfg, stage_channels, max(1, num_classes)))
    head = Head(head_class(cfg, stage_channels, max(1, num_classes)), len(stage_channels))
    initialise(head, _draw_seed())
    return head


class Head(nn.Module):
    """A head without backbone and classifier. `head` is the head itself, which also returns auxiliary logits."""

    def __init__(self, head: ContextHead, num_stages: int) -> None:
        super().__init__()
        self.head, self.num_stages = head, num_stages
        self.out_channels = head.out_channels

    def forward(self, stages: Tensor | Sequence[Tensor]) -> Tensor:
        """Maps `b c h w`, or a list of stages `b c h w`, to the context `b d h w`."""
        context: Tensor = self.head([stages] * self.num_stages if isinstance(stages, Tensor) else stages).context
        return context


def attention(model: Predictor | SegmentationModel, image: Image, pixel: tuple[int, int]) -> dict[str, AttentionRow]:
    """Returns where one pixel of an image looks: rows by the name of the measure.

    model: from `load` or `create_model`, in evaluation mode. image: RGB, an array u8 `H W 3`, a tensor u8 `3 H W`, a
    PIL image or a file. pixel: row and column in it. Names: "all hops" (rcca, isa: the product of the hops), then each
    hop ("attention", or "hop 1" and so on); last "receptive field", the gradient of the pixel's highest logit with
    respect to the features, which every head has.

    Raises ValueError for a network in training mode or a pixel outside the image, DataError for an unreadable file.
    """
    if isinstance(model, Predictor):
        return image_attention(model, model.pixels_of(image)).of_pixel(pixel)
    return ImageAttention(model.segmenter, as_pixels(image)).of_pixel(pixel)


def load_recipe(path: str | Path, overrides: str | Sequence[str] = ()) -> Recipe:
    """Reads a recipe; overrides: `optim.lr=0.02` and the like. Raises ConfigError naming the file and the key."""
    return recipes.load_recipe(Path(path), [overrides] if isinstance(overrides, str) else overrides)


def build_model(recipe: Recipe, num_classes: int) -> SegmentationModel:
    """Builds the network that a training run starts with: initial values of train.seed, then pretrained weights."""
    _require_count("build_model: num_classes", num_classes)
    return SegmentationModel(build.build_model(recipe, num_classes, is_new=True))


class Dataset(torch.utils.data.Dataset[Sample]):
    """One split of a data set for torch's DataLoader."""

    def __init__(self, data: SegmentationData) -> None:
        self.data = data

    @property
    def class_table(self) -> ClassTable:
        """Names, colours and file ids of the classes."""
        return self.data.table

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Sample:
        """Reads sample `i` at its own size. Raises DataError naming a file that cannot be read."""
        return self.data.read(operator.index(i))


def open_dataset(name: str, root: str | Path, split: str = "train", **settings: Any) -> Dataset:
    """Opens a split of a data set.

    name: `folder`, `cityscapes`, `ade20k`, `streets`, or the dotted name of your own module. settings: the keys
    of a recipe under `data`, such as ignore_ids, or cache: "disk".

    Raises ConfigError for an unknown name or setting, DataError for missing files or an unknown split.
    """
    data_class = DATASETS.find(name)
    # Samples are whole images here; crops are taken in training.
    mapping = {"name": name, "root": str(root), "crop_hw": [1, 1], **settings}
    data = data_class(validate(data_class.Config, mapping, file="segnl.open_dataset"), split)
    cache_samples([data], is_shown=False)
    return Dataset(data)


def _require_count(key: str, value: int) -> None:
    if type(value) is not int or not 1 <= value <= _MAX_COUNT:
        raise ConfigError(f"segnl.{key}: {value!r}; expected a whole number from 1 to {_MAX_COUNT}")


def _draw_seed() -> int:
    return int(torch.randint(2**31, ()))
