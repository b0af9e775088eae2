"""A ResNet's settings, read off its weights."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segnl.core.errors import CheckpointError
from segnl.models.backbones.resnet import DEPTHS, LAYERS


def resnet_dict(backbone: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """name, depth or blocks, and width of a backbone whose blocks are called `layer1.0.conv1.weight` and so on.

    Raises CheckpointError when such names are missing.
    """
    blocks = []
    for name in LAYERS:
        found = [int(match[1]) for key in backbone if (match := re.fullmatch(rf"{name}\.(\d+)\.conv1\.weight", key))]
        if not found:
            raise CheckpointError(f"{where}: {name}.0.conv1.weight: missing; expected the weights of a ResNet")
        blocks.append(max(found) + 1)
    kind = "bottleneck" if "layer1.0.conv3.weight" in backbone else "basic"
    depths = [depth for depth, layout in DEPTHS.items() if layout == (kind, tuple(blocks))]
    own: dict[str, Any] = {"depth": depths[0]} if depths else {"depth": None, "blocks": blocks, "block": kind}
    return {"name": "resnet", **own, "width": backbone["layer1.0.conv1.weight"].shape[0] / 64}


def channels_out(state: Mapping[str, Tensor], name: str, where: str) -> int:
    """Output channels of the convolution whose weight is called `name`; CheckpointError when it is missing."""
    if name not in state:
        raise CheckpointError(f"{where}: {name}: missing; is this the whole file, and of that project?")
    return state[name].shape[0]
