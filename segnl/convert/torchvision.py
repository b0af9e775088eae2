"""Import of torchvision's deeplabv3_resnet50 and deeplabv3_resnet101."""

from typing import Any

import torch

from segnl.convert.imported import ImportedModel, loaded, out_channels, resnet_section
from segnl.core.errors import CheckpointError
from segnl.models.weights.files import tensors_in
from segnl.models.weights.resnet import PLAIN_STEM
from segnl.models.weights.strict import renamed

_WHERE = "torchvision"
_FIRST = "classifier.0.convs.0.0.weight"
_PROJECT = "classifier.0.project.0.weight"
_NAMES = {
    "head.image_pool.conv": "classifier.0.convs.4.1",
    "head.image_pool.norm": "classifier.0.convs.4.2",
    **{f"head.branches.{branch}.conv": f"classifier.0.convs.{branch}.0" for branch in range(4)},
    **{f"head.branches.{branch}.norm": f"classifier.0.convs.{branch}.1" for branch in range(4)},
    "head.project.conv": "classifier.0.project.0",
    "head.project.norm": "classifier.0.project.1",
    "head.last_conv.conv": "classifier.1",
    "head.last_conv.norm": "classifier.2",
    "classifier": "classifier.4",
    "auxiliary.conv.conv": "aux_classifier.0",
    "auxiliary.conv.norm": "aux_classifier.1",
    "auxiliary.classifier": "aux_classifier.4",
    **{f"backbone.{ours}": f"backbone.{theirs}" for ours, theirs in PLAIN_STEM.items()},
}


def from_torchvision(state: dict[str, Any]) -> ImportedModel:
    """Builds deeplabv3_resnet50 or 101 from its weights, in eval mode: normalised image `b 3 H W` to logits `b k H W`.

    Includes the auxiliary classifier where the state has one. Raises CheckpointError for tensors that do not fit.
    """
    tensors = tensors_in(state, _WHERE)
    if _FIRST not in tensors:
        raise CheckpointError(f"{_WHERE}: {_FIRST}: missing; known models: deeplabv3_resnet50, deeplabv3_resnet101")
    aux = None
    if any(name.startswith("aux_classifier.") for name in tensors):
        aux = {"channels": out_channels(tensors, "aux_classifier.0.weight", _WHERE), "weight": 0.5}
    prefix = "backbone."
    backbone = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    channels = out_channels(tensors, _FIRST, _WHERE)
    section = {
        "backbone": {**resnet_section(backbone, _WHERE), "output_stride": 8},
        "head": {
            "name": "aspp",
            "channels": channels,
            "project_kernel": 1,
            "project_channels": out_channels(tensors, _PROJECT, _WHERE),
            "project_dropout": 0.5,
            "has_last_conv": True,
        },
        "aux": aux,
        "dropout": 0.0,
    }
    # torchvision concatenates [dilations ..., image mean], segnl [image mean, dilations ...].
    tensors[_PROJECT] = torch.roll(tensors[_PROJECT], channels, dims=1)
    num_classes = out_channels(tensors, "classifier.4.weight", _WHERE)
    return loaded(lambda: ImportedModel(section, num_classes, _WHERE), tensors, renamed(_NAMES), _WHERE)
