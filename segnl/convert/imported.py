"""Imported models: modules with the inputs and outputs of the project they come from, and settings read off weights."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from segnl.core.config import JSONDict, validate
from segnl.core.errors import CheckpointError
from segnl.models.backbones.resnet import DEPTHS, LAYERS
from segnl.models.blocks.conv import NormalInitConv2d
from segnl.models.find import HEADS
from segnl.models.heads.base import ContextHead
from segnl.models.segmenter import BatchNormConfig, Logits, SegmentationModel, Segmenter, model_config, set_batch_norm
from segnl.models.weights.strict import ImportReport, build_and_load, load_strict
from segnl.video.classifier import VideoClassifier


class ImportedModel(SegmentationModel):
    """A model with the weights of another project; normalised images are in that project's channel order."""

    report: ImportReport
    class_names: tuple[str, ...] = ()
    """Of the classes, where the file holds them."""

    def __init__(self, section: JSONDict, num_classes: int, where: str) -> None:
        """section: `model` of a recipe. where: the source, for error messages."""
        cfg = model_config(section, file=where)
        # In torch's usual layout oneDNN rounds coarser: error 3.6e-5 instead of 1.6e-5 on the recorded model-ccnet-r18.
        super().__init__(Segmenter(cfg, num_classes).to(memory_format=torch.channels_last))
        self.model: JSONDict = cfg.model_dump(mode="json")
        """Section `model` of its recipe with every key: mean, std, channel order and align_corners too."""

    def low_resolution(self, image: Tensor) -> Logits:
        """Maps images `b 3 H W` to logits `b k h w` at feature size."""
        return super().low_resolution(image.contiguous(memory_format=torch.channels_last))


class ImportedClassifier(VideoClassifier):
    """A video classifier with weights of mmaction2."""

    report: ImportReport


class ImportedHead(nn.Module):
    """A head with its classifier, without a backbone."""

    report: ImportReport

    def __init__(
        self,
        section: JSONDict,
        stage_channels: Sequence[int],
        num_classes: int,
        where: str,
        *,
        dropout: float = 0.1,
        batch_norm: JSONDict | None = None,
        align_corners: bool,
    ) -> None:
        """section, batch_norm: `head` and `batch_norm` of a recipe. where: the source, for error messages."""
        super().__init__()
        head_class = HEADS.find(section["name"])
        cfg = validate(head_class.Config, section, file=where, at="head")
        self.head: ContextHead = head_class(cfg, stage_channels, num_classes)
        self.head.align_corners = align_corners
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = NormalInitConv2d(self.head.out_channels, num_classes, 1)
        set_batch_norm(self, BatchNormConfig(**(batch_norm or {})))

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Maps stages c2..c5, `b c h w`, unused ones None, to logits `b k h w`."""
        return self.classifier(self.dropout(self.head(stages).context))


Imported = TypeVar("Imported", bound=ImportedModel | ImportedHead | ImportedClassifier)


def loaded(
    build: Callable[[], Imported], tensors: Mapping[str, Tensor], source_name: Callable[[str], str], where: str
) -> Imported:
    """Builds a model with the weights `tensors`, in eval mode; source_name: as of `load_strict`.

    Raises CheckpointError for tensors that do not fit.
    """

    def load(model: Imported) -> None:
        network = model.segmenter if isinstance(model, ImportedModel) else model
        model.report = load_strict(network, tensors, source_name, where=where)

    model = build_and_load(build, load, where=where)
    model.eval()
    return model


def resnet_section(backbone: Mapping[str, Tensor], where: str) -> JSONDict:
    """Returns name, depth or blocks, and width of a ResNet, read off weights named `layer1.0.conv1.weight` and so on.

    Raises CheckpointError when such names are missing.
    """
    blocks = []
    for layer in LAYERS:
        pattern = rf"{layer}\.(\d{{1,9}})\.conv1\.weight"
        indices = [int(match[1]) for name in backbone if (match := re.fullmatch(pattern, name))]
        if not indices:
            raise CheckpointError(f"{where}: {layer}.0.conv1.weight: missing; expected the weights of a ResNet")
        blocks.append(max(indices) + 1)
    block = "bottleneck" if "layer1.0.conv3.weight" in backbone else "basic"
    depth = next((depth for depth, layout in DEPTHS.items() if layout == (block, tuple(blocks))), None)
    layout: JSONDict = {"depth": depth} if depth else {"depth": None, "blocks": blocks, "block": block}
    return {"name": "resnet", **layout, "width": out_channels(backbone, "layer1.0.conv1.weight", where) / 64}


def out_channels(state: Mapping[str, Tensor], name: str, where: str) -> int:
    """Returns the output channels of the convolution with weight `name`.

    Raises CheckpointError when it is missing, or another tensor.
    """
    if name not in state:
        raise CheckpointError(f"{where}: {name}: missing; is this the whole file, and of that project?")
    if state[name].dim() < 2:
        raise CheckpointError(f"{where}: {name}: shape {tuple(state[name].shape)}; expected a convolution's weight")
    return state[name].shape[0]
