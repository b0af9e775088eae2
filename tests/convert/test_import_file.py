import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from segnl.convert.import_file import import_file
from segnl.convert.mmseg import from_mmseg
from segnl.core.errors import CheckpointError, ConfigError
from segnl.models.segmenter import Segmenter, model_config


@pytest.fixture
def peer(shared: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with safe_open(shared / "parity" / "model-ccnet-r18.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
        names = [key for key in file.keys() if key.startswith("state/")]  # noqa: SIM118  not a mapping
        return config, {name.removeprefix("state/"): file.get_tensor(name) for name in names}


def config_text(config: dict[str, Any]) -> str:
    return f"norm_cfg = dict(type='SyncBN')\nmodel = {config!r}\n"


@pytest.mark.parametrize("key", ["cfg", "config"])
def test_a_checkpoint_of_mmsegmentation_brings_its_own_config(tmp_path: Path, peer: Any, key: str) -> None:
    config, state = peer
    torch.save({"meta": {key: config_text(config)}, "state_dict": state}, tmp_path / "peer.pth")
    imported = import_file(tmp_path / "peer.pth", "mmseg")
    model = Segmenter(model_config(imported.model, file="imported"), imported.num_classes).eval()
    model.load_state_dict(imported.state)
    image = torch.randn(1, 3, 33, 41)
    expected = from_mmseg(config, state).segmenter(image).main
    torch.testing.assert_close(model(image).main, expected, rtol=1e-4, atol=1e-3)  # memory formats differ
    assert imported.report.num_used == len(state)


def test_the_old_projects_input_convention_is_found(tmp_path: Path, peer: Any) -> None:
    config, state = peer
    config = {key: value for key, value in config.items() if key != "data_preprocessor"}
    text = "img_norm_cfg = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=True)\n" + config_text(config)
    torch.save({"meta": {"config": text}, "state_dict": state}, tmp_path / "old.pth")
    imported = import_file(tmp_path / "old.pth", "mmseg")
    assert imported.model["input"] == {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "order": "rgb"}


def test_a_file_without_a_config_asks_for_one_and_takes_it(tmp_path: Path, peer: Any) -> None:
    config, state = peer
    save_file(state, str(tmp_path / "bare.safetensors"))
    with pytest.raises(CheckpointError, match="carries no config"):
        import_file(tmp_path / "bare.safetensors", "mmseg")
    (tmp_path / "config.py").write_text(config_text(config))
    imported = import_file(tmp_path / "bare.safetensors", "mmseg", config_file=tmp_path / "config.py")
    assert imported.model["head"]["name"] == "rcca"


def test_an_unknown_kind_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known: mmseg, ccnet, torchvision"):
        import_file(tmp_path / "any.pth", "paddle")


def test_a_head_alone_is_no_model(tmp_path: Path, shared: Path) -> None:
    with safe_open(shared / "parity" / "head-ccnet-authors-r2.safetensors", "pt") as file:
        names = [key for key in file.keys() if key.startswith("state/")]  # noqa: SIM118  not a mapping
        state = {name.removeprefix("state/"): file.get_tensor(name) for name in names}
    save_file(state, str(tmp_path / "head.safetensors"))
    with pytest.raises(CheckpointError, match="a head alone"):
        import_file(tmp_path / "head.safetensors", "ccnet")
