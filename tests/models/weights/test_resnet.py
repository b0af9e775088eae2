import logging
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segnl.core.config import validate
from segnl.core.errors import CheckpointError, ConfigError, MachineError
from segnl.models.backbones.resnet import ResNet, ResNetConfig
from segnl.models.initialisation import initialise
from segnl.models.weights.resnet import NESTED_STEM, NUMBERED_STEM, PLAIN_STEM
from segnl.models.weights.strict import renamed


def config(**settings: Any) -> ResNetConfig:
    mapping = {"name": "resnet", "depth": 18, "width": 0.0625, **settings}
    return validate(ResNetConfig, mapping, file="test", at="model.backbone")


def backbone_of(cfg: ResNetConfig, seed: int) -> ResNet:
    backbone = ResNet(cfg)
    initialise(backbone, seed)
    return backbone


def state_under(rename: Callable[[str], str], **settings: Any) -> dict[str, Tensor]:
    """A trained backbone's tensors under a peer's names."""
    return {rename(name): value for name, value in backbone_of(config(**settings), 1).state_dict().items()}


DEEP = {"stem": {"kind": "deep"}}


@pytest.mark.parametrize(
    ("rules", "settings"),
    [(PLAIN_STEM, {}), (NUMBERED_STEM, DEEP), (NESTED_STEM, DEEP), ({}, DEEP), ({}, {})],
    ids=["torchvision", "ccnet", "pytorch-encoding", "mmseg deep", "ours plain"],
)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_backbones_of_all_known_projects_are_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rules: dict[str, str], settings: dict[str, Any], prefix: str
) -> None:
    rest = {"decode_head.conv_seg.weight" if prefix else "fc.weight": torch.zeros(2)}
    state = {prefix + name: value for name, value in state_under(renamed(rules), **settings).items()}
    torch.save({"state_dict": state | rest}, tmp_path / "backbone.pth")
    cfg = config(weights=str(tmp_path / "backbone.pth"), **settings)
    backbone = backbone_of(cfg, 2)
    caplog.set_level(logging.INFO, "segnl")
    backbone.load_pretrained(cfg.weights)
    trained = backbone_of(cfg, 1).state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in backbone.state_dict().items())
    assert prefix or "left out: fc.weight" in caplog.text


def test_non_local_blocks_inside_stay_new(tmp_path: Path) -> None:
    torch.save(state_under(renamed(PLAIN_STEM)), tmp_path / "backbone.pth")
    cfg = config(weights=str(tmp_path / "backbone.pth"), non_local={"layer3": [-2]})
    backbone = backbone_of(cfg, 2)
    before = backbone.non_local["layer3_0"].theta.weight.clone()
    backbone.load_pretrained(cfg.weights)
    assert torch.equal(backbone.non_local["layer3_0"].theta.weight, before)


def test_a_stem_of_another_kind_is_named(tmp_path: Path) -> None:
    torch.save(state_under(renamed(PLAIN_STEM)), tmp_path / "backbone.pth")
    cfg = config(weights=str(tmp_path / "backbone.pth"), **DEEP)
    with pytest.raises(CheckpointError, match=r"has a plain stem, model\.backbone\.stem\.kind is deep"):
        ResNet(cfg).load_pretrained(cfg.weights)


def test_weights_of_another_depth_are_refused(tmp_path: Path) -> None:
    torch.save(state_under(renamed(PLAIN_STEM), depth=34), tmp_path / "backbone.pth")
    cfg = config(weights=str(tmp_path / "backbone.pth"))
    with pytest.raises(CheckpointError, match=r"unknown: layer1\.2"):
        ResNet(cfg).load_pretrained(cfg.weights)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "vgg.pth")
    cfg = config(weights=str(tmp_path / "vgg.pth"))
    with pytest.raises(CheckpointError, match="not a ResNet's weights"):
        ResNet(cfg).load_pretrained(cfg.weights)


@pytest.mark.parametrize(
    ("settings", "file"),
    [
        ({"depth": 50, "width": 1.0}, "resnet50-0676ba61.pth"),
        ({"depth": 101, "width": 1.0, **DEEP}, "resnet101_v1c-e67eebb6.pth"),
        ({"depth": 50, "width": 1.0, "weights": "resnet50_v1c", **DEEP}, "resnet50_v1c-2cccc1ad.pth"),
    ],
)
def test_offline_the_error_names_the_file_and_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], file: str
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(MachineError) as caught:
        ResNet(config(**settings)).load_pretrained(settings.get("weights", "imagenet"))
    assert str(tmp_path / "checkpoints" / file) in str(caught.value)
    assert "model.backbone.weights" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_in_the_cache_is_taken_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cfg = config(width=1.0, weights="imagenet")
    state = {renamed(PLAIN_STEM)(name): value for name, value in backbone_of(cfg, 1).state_dict().items()}
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    backbone = backbone_of(cfg, 2)
    backbone.load_pretrained(cfg.weights)
    assert torch.equal(backbone.stem[0].weight, state["conv1.weight"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "imagent"}, "did you mean 'imagenet'?"),
        ({"weights": "imagenet"}, "another width"),
        ({"weights": "imagenet", "width": 1.0, "stem": {"kind": "deep", "channels": 128}}, "stem of 128 channels"),
        ({"weights": "imagenet", "width": 1.0, "depth": 34, **DEEP}, "no resnet34_v1c"),
        ({"weights": "resnet50_v1c", "width": 1.0, "depth": 50}, "whose weights are resnet50"),
        ({"weights": "imagenet", "depth": None, "block": "basic", "blocks": [1, 1, 1, 1]}, "own blocks"),
    ],
)
def test_names_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    cfg = config(**settings)
    with pytest.raises(ConfigError) as caught:
        ResNet(cfg).load_pretrained(cfg.weights)
    assert str(caught.value).startswith("model.backbone.weights: ")
    assert message in str(caught.value)
