import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import segnl
from segnl.convert.import_checkpoint import adopt
from segnl.core.errors import CheckpointError, ConfigError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "cityscapes" / "rcca_r50.yaml"
PREPROCESSOR = {
    "type": "SegDataPreProcessor",
    "mean": [1.0, 2.0, 3.0],
    "std": [4.0, 5.0, 6.0],
    "bgr_to_rgb": False,
    "pad_val": 0,
    "seg_pad_val": 255,
}


@pytest.fixture
def peer_file(shared, tmp_path):
    """A recorded model as mmsegmentation itself writes it: {meta: {cfg}, state_dict}."""
    record = shared / "parity" / "model-ccnet-r18.safetensors"
    with safe_open(record, "pt") as file:
        config = json.loads(file.metadata()["config"])
    config["data_preprocessor"] = PREPROCESSOR
    state = {
        name.removeprefix("state/"): tensor
        for name, tensor in safetensors.torch.load_file(record).items()
        if name.startswith("state/")
    }
    path = tmp_path / "peer.pth"
    torch.save({"meta": {"cfg": f"model = {config!r}"}, "state_dict": state}, path)
    return path


def test_an_imported_model_is_a_checkpoint_with_the_peers_input_convention(peer_file, tmp_path):
    lines = adopt(peer_file, "mmseg", CONFIG, tmp_path / "out" / "ccnet.safetensors")
    assert lines[0].endswith("tensors used, 0 left out")
    model = segnl.load(tmp_path / "out" / "ccnet.safetensors")
    assert model.recipe.model.input.mean == (1.0, 2.0, 3.0)
    assert model.recipe.model.input.order == "bgr"
    assert model.recipe.model.head.name == "rcca"
    predicted = model.predict(np.random.default_rng(0).integers(0, 256, (97, 129, 3), dtype=np.uint8))
    assert predicted.shape == (97, 129)
    assert predicted.max() < 19


def test_another_number_of_classes_is_refused(peer_file, tiny_config, tmp_path):
    with pytest.raises(CheckpointError, match="predicts 19 classes"):
        adopt(peer_file, "mmseg", tiny_config, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_overrides_of_the_model_are_refused_for_they_would_change_nothing(peer_file, tmp_path):
    with pytest.raises(ConfigError, match=r"--set model\.dropout=0: the imported file says what the model is"):
        adopt(peer_file, "mmseg", CONFIG, tmp_path / "out.safetensors", overrides=["model.dropout=0"])


def test_the_recurrence_of_ccnet_is_asked_for(monkeypatch, tmp_path):
    asked = {}

    def found(path, kind, **settings):
        asked.update(settings)
        raise CheckpointError("enough")

    monkeypatch.setattr("segnl.convert.import_checkpoint.import_file", found)
    with pytest.raises(CheckpointError, match="enough"):
        adopt(tmp_path / "x.pth", "ccnet", CONFIG, tmp_path / "out.safetensors", recurrence=1, abn="plain")
    assert (asked["recurrence"], asked["abn"]) == (1, "plain")
