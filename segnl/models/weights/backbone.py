"""Pretrained weights of a backbone: by name, or from a file of a known project."""

import re
import socket
import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from segnl.core.config import suggest
from segnl.core.errors import CheckpointError, ConfigError, MachineError
from segnl.models.backbones.base import Backbone, BackboneConfig
from segnl.models.backbones.resnet import ResNetConfig
from segnl.models.weights.files import read_checkpoint, tensors_in
from segnl.models.weights.strict import ImportReport, load_strict, renamed

_TORCHVISION = "https://download.pytorch.org/models/"
_OPENMMLAB = "https://download.openmmlab.com/pretrain/third_party/"
# torchvision's first weights (IMAGENET1K_V1), from which the published segmentation recipes start.
URLS = {
    "resnet18": f"{_TORCHVISION}resnet18-f37072fd.pth",
    "resnet34": f"{_TORCHVISION}resnet34-b627a593.pth",
    "resnet50": f"{_TORCHVISION}resnet50-0676ba61.pth",
    "resnet101": f"{_TORCHVISION}resnet101-63fe2227.pth",
    "resnet152": f"{_TORCHVISION}resnet152-394f9c45.pth",
    "resnet18_v1c": f"{_OPENMMLAB}resnet18_v1c-b5776b93.pth",
    "resnet50_v1c": f"{_OPENMMLAB}resnet50_v1c-2cccc1ad.pth",
    "resnet101_v1c": f"{_OPENMMLAB}resnet101_v1c-e67eebb6.pth",
}
_KEY = "model.backbone.weights"
_FETCH_TIMEOUT_S = 30.0

# Names of the stem, ours to theirs: torchvision; CCNet's authors and CSAIL; PyTorch-Encoding.
PLAIN_STEM = {"stem.0": "conv1", "stem.1": "bn1"}
NUMBERED_STEM = PLAIN_STEM | {"stem.3": "conv2", "stem.4": "bn2", "stem.6": "conv3", "stem.7": "bn3"}
NESTED_STEM = {f"stem.{index}": f"conv1.{index}" for index in (0, 1, 3, 4, 6)} | {"stem.7": "bn1"}


def load_backbone_weights(backbone: Backbone, cfg: BackboneConfig) -> ImportReport | None:
    """Loads the weights that `cfg.weights` names, strictly, without the file's classifier.

    Non-local blocks inside the backbone keep their initial values.

    Raises ConfigError when there are no such weights for this backbone, CheckpointError when the file does not fit,
    MachineError when it cannot be fetched.
    """
    if cfg.weights is None:
        return None
    path = _find_file(cfg.weights, cfg)
    return load_backbone(backbone, tensors_in(read_checkpoint(path), str(path)), where=str(path))


def load_backbone(backbone: Backbone, state: Mapping[str, Tensor], *, where: str) -> ImportReport:
    """Loads `state`, of a classification network or a segmentation model, into `backbone`."""
    nested = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    weights = nested or {name: value for name, value in state.items() if not name.startswith("fc.")}
    source_name, stem = backbone_names(weights, where)
    ours = "deep" if "stem.3.weight" in backbone.state_dict() else "plain"
    if ours != stem:
        raise CheckpointError(f"{where}: has a {stem} stem, model.backbone.stem.kind is {ours}; set it to {stem}")
    report = load_strict(backbone, weights, source_name, where=where, skip="non_local.")
    prefix = "backbone." if nested else ""
    report.left_out = {name: "not of the backbone" for name in state if name.removeprefix(prefix) not in weights}
    return report


def backbone_names(state: Mapping[str, Tensor], where: str) -> tuple[Callable[[str], str], str]:
    """Returns the function from our names to the file's, and the kind of its stem.

    Raises CheckpointError when the stem's names are unknown.
    """
    if "stem.0.weight" in state:
        return renamed({}), "deep" if "stem.3.weight" in state else "plain"
    if "conv1.0.weight" in state:
        return renamed(NESTED_STEM), "deep"
    if "conv1.weight" in state and "conv3.weight" in state:
        return renamed(NUMBERED_STEM), "deep"
    if "conv1.weight" in state:
        return renamed(PLAIN_STEM), "plain"
    raise CheckpointError(f"{where}: not a ResNet's weights: neither conv1.weight nor stem.0.weight is in it")


def _find_file(weights: str, cfg: BackboneConfig) -> Path:
    names = [*URLS, "imagenet"]
    if weights not in names:
        if not re.search(r"[/\\.]", weights):
            raise ConfigError(f"{_KEY}: holds {weights!r}{suggest(weights, names)}; or the path of a file")
        return Path(weights)
    if not isinstance(cfg, ResNetConfig):
        raise ConfigError(f"{_KEY}: {weights} is a ResNet's; for {cfg.name} give the path of a file")
    fitting = _fitting_name(cfg)
    if weights not in ("imagenet", fitting):
        raise ConfigError(f"{_KEY}: {weights} does not fit this backbone, whose weights are {fitting}")
    return _fetch(URLS[fitting])


def _fitting_name(cfg: ResNetConfig) -> str:
    """Returns the name of the published weights for these settings; ConfigError where there are none."""
    stem = cfg.stem
    if cfg.blocks is not None or cfg.base_channels != 64 or cfg.avg_down or cfg.depth is None:
        raise ConfigError(f"{_KEY}: none are published for own blocks, another width or avg_down; set it to null")
    if cfg.stem_channels != 64:
        raise ConfigError(
            f"{_KEY}: none are published for a {stem.kind} stem of {cfg.stem_channels} channels; expected 64, or a path"
        )
    name = f"resnet{cfg.depth}" + ("_v1c" if stem.kind == "deep" else "")
    if name not in URLS:
        known = ", ".join(sorted(deep for deep in URLS if deep.endswith("_v1c")))
        raise ConfigError(
            f"{_KEY}: no {name}; with a deep stem there are {known}; or set model.backbone.stem.kind to plain"
        )
    return name


def _fetch(url: str) -> Path:
    """Returns the file of `url` in torch.hub's cache; downloads it if it is missing and checks the hash in its name."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_FETCH_TIMEOUT_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2])
    except (urllib.error.URLError, OSError, RuntimeError) as err:
        reason = getattr(err, "reason", None) or err
        raise MachineError(
            f"{url}: cannot be fetched ({reason}); put the file at {path}, or its path into {_KEY}"
        ) from err
    finally:
        socket.setdefaulttimeout(timeout)
    return path
