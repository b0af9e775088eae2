"""Import of models by CCNet's authors (Huang et al. 2019): their RCCA and ASPP heads on their ResNet."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from torch import Tensor

from segnl.convert.imported import ImportedHead, ImportedModel, loaded, out_channels, resnet_section
from segnl.core.config import JSONDict
from segnl.models.weights.files import tensors_in
from segnl.models.weights.resnet import NUMBERED_STEM
from segnl.models.weights.strict import WEIGHT_TYPES, renamed

_WHERE = "ccnet"
_ABN_EPS = 1e-5
_SLOPE = 0.01
"""Slope of the leaky ReLU inside their in-place batch norm; the backbone uses that norm without an activation."""

_RCCA_NAMES = {
    "head.shell.convs.0.conv": "head.conva.0",
    "head.shell.convs.0.norm": "head.conva.1",
    "head.shell.convs.1.conv": "head.convb.0",
    "head.shell.convs.1.norm": "head.convb.1",
    "head.shell.conv_cat.conv": "head.bottleneck.0",
    "head.shell.conv_cat.norm": "head.bottleneck.1",
    "head.shell.context": "head.cca",
    "head.shell.context.gamma.scale": "head.cca.gamma",
    "classifier": "head.bottleneck.3",
}
_ASPP_NAMES = {
    "head.image_pool.conv": "head.0.conv1.1",
    "head.image_pool.norm": "head.0.conv1.2",
    **{f"head.branches.{branch}.conv": f"head.0.conv{branch + 2}.0" for branch in range(4)},
    **{f"head.branches.{branch}.norm": f"head.0.conv{branch + 2}.1" for branch in range(4)},
    "head.project.conv": "head.0.bottleneck.0",
    "head.project.norm": "head.0.bottleneck.1",
    "classifier": "head.1",
}
_AUX_NAMES = {"auxiliary.conv.conv": "dsn.0", "auxiliary.conv.norm": "dsn.1", "auxiliary.classifier": "dsn.3"}
_BACKBONE_NAMES = {f"backbone.{ours}": theirs for ours, theirs in NUMBERED_STEM.items()} | {
    f"backbone.layer{layer}": f"layer{layer}" for layer in (1, 2, 3, 4)
}


def from_ccnet(
    state: dict[str, Any], *, recurrence: int = 2, abn: Literal["plain", "abs"] = "plain"
) -> ImportedModel | ImportedHead:
    """Builds a model of CCNet's authors from its weights, in eval mode; a head alone if all names begin `head.`.

    abn: how their in-place batch norm used its weight: as stored (plain) or, in their CUDA code, |weight| + 1e-5 (abs).
    A whole model maps an image `b 3 H W` (BGR, mean subtracted) to logits `b k H W`; a head maps a list of stages to
    `b k h w`.

    Raises ValueError for another `abn`, ConfigError for a recurrence below 1, CheckpointError for tensors that do not
    fit.
    """
    if abn not in ("plain", "abs"):
        raise ValueError(f"abn: {abn!r}; expected 'plain' or 'abs'")
    tensors = {name: _converted(name, value, abn) for name, value in tensors_in(state, _WHERE).items()}
    head, names, first = _head_section(tensors, recurrence)
    num_classes = out_channels(tensors, f"{names['classifier']}.weight", _WHERE)
    if all(name.startswith("head.") for name in tensors):
        stage_channels = (0, 0, 0, tensors[first].shape[1])
        alone = partial(ImportedHead, head, stage_channels, num_classes, _WHERE, align_corners=True)
        return loaded(alone, tensors, renamed(names), _WHERE)
    section, rename = _model_section(head, tensors), renamed(names | _AUX_NAMES | _BACKBONE_NAMES)
    return loaded(lambda: ImportedModel(section, num_classes, _WHERE), tensors, rename, _WHERE)


def _converted(name: str, value: Tensor, abn: str) -> Tensor:
    if name.endswith("cca.gamma") and value.numel() == 1:
        return value.reshape(())
    is_number = value.is_floating_point() and value.dtype in WEIGHT_TYPES  # others are refused with their name
    if abn == "abs" and name.endswith(".weight") and value.dim() == 1 and is_number:
        return value.abs() + _ABN_EPS
    return value


def _head_section(tensors: Mapping[str, Tensor], recurrence: int) -> tuple[JSONDict, dict[str, str], str]:
    """Returns the recipe's section `head`, the names of its modules in the file, and its first weight's name."""
    if (first := "head.0.conv1.1.weight") in tensors:
        section: JSONDict = {
            "name": "aspp",
            "channels": out_channels(tensors, first, _WHERE),
            "project_kernel": 1,
            "project_channels": out_channels(tensors, "head.0.bottleneck.0.weight", _WHERE),
            "leaky_slope": _SLOPE,
        }
        return section, _ASPP_NAMES, first
    first = "head.conva.0.weight"
    section = {
        "name": "rcca",
        "recurrence": recurrence,
        "channels": out_channels(tensors, first, _WHERE),
        "last_channels": out_channels(tensors, "head.bottleneck.0.weight", _WHERE),
        "leaky_slope": _SLOPE,
    }
    return section, _RCCA_NAMES, first


def _model_section(head: JSONDict, tensors: Mapping[str, Tensor]) -> JSONDict:
    aux = None
    if any(name.startswith("dsn.") for name in tensors):
        channels = out_channels(tensors, "dsn.0.weight", _WHERE)
        aux = {"channels": channels, "has_conv_bias": True, "leaky_slope": _SLOPE}
    return {
        "backbone": {
            **resnet_section(tensors, _WHERE),
            "stem": {"kind": "deep", "channels": out_channels(tensors, "conv3.weight", _WHERE), "ceil_mode": True},
            "output_stride": 8,
            "contract_dilation": False,
            "multi_grid": [1, 1, 1],
        },
        "head": head,
        "aux": aux,
        "align_corners": True,
        "input": {"mean": [104.00698793, 116.66876762, 122.67891434], "std": [1.0, 1.0, 1.0], "order": "bgr"},
    }
