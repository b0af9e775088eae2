import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import segnl
from segnl.convert.import_checkpoint import (
    ImportSettings,
    _mmseg_names,
    _source_config,
    import_checkpoint,
    import_file,
)
from segnl.convert.mmseg import from_mmseg
from segnl.core.errors import CheckpointError, ConfigError
from segnl.labels import cityscapes
from segnl.models.segmenter import Segmenter, model_config

RECIPE = Path(__file__).resolve().parents[2] / "configs" / "cityscapes" / "rcca_r50.yaml"
MMSEG = ImportSettings("mmseg")
PREPROCESSOR = {
    "type": "SegDataPreProcessor",
    "mean": [1.0, 2.0, 3.0],
    "std": [4.0, 5.0, 6.0],
    "bgr_to_rgb": False,
    "pad_val": 0,
    "seg_pad_val": 255,
}


@pytest.fixture
def mmseg_file(shared, tmp_path):
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
    path = tmp_path / "mmseg.pth"
    torch.save({"meta": {"cfg": f"model = {config!r}"}, "state_dict": state}, path)
    return path


def test_an_imported_model_is_a_checkpoint_with_the_sources_input_convention(mmseg_file, tmp_path):
    report = import_checkpoint(mmseg_file, MMSEG, RECIPE, tmp_path / "out" / "ccnet.safetensors")
    assert report.lines()[0].endswith("tensors used, 0 left out")
    model = segnl.load(tmp_path / "out" / "ccnet.safetensors")
    assert model.recipe.model.input.mean == (1.0, 2.0, 3.0)
    assert model.recipe.model.input.order == "bgr"
    assert model.recipe.model.head.name == "rcca"
    predicted = model.predict(np.random.default_rng(0).integers(0, 256, (97, 129, 3), dtype=np.uint8))
    assert predicted.shape == (97, 129)
    assert predicted.max() < 19


def test_another_number_of_classes_is_refused(mmseg_file, tiny_config, tmp_path):
    with pytest.raises(CheckpointError, match="predicts 19 classes"):
        import_checkpoint(mmseg_file, MMSEG, tiny_config, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def named(file: Path, meta: dict[str, Any]) -> Path:
    """Adds names of classes to a checkpoint of mmsegmentation."""
    content = torch.load(file, weights_only=True)
    torch.save(content | {"meta": content["meta"] | meta}, file)
    return file


def test_classes_in_another_order_than_the_recipes_are_refused(mmseg_file, tmp_path):
    names = [name.title() for name in cityscapes.TABLE.names]
    out = tmp_path / "out.safetensors"
    import_checkpoint(named(mmseg_file, {"CLASSES": names}), MMSEG, RECIPE, out)
    for wrong, message in (
        ([names[1], names[0], *names[2:]], "its class 0 is 'Sidewalk', class 1 of cityscapes"),
        ([*names, "other"], "names 20 classes, but predicts 19"),
    ):
        with pytest.raises(CheckpointError, match=message):
            import_checkpoint(
                named(mmseg_file, {"dataset_meta": {"classes": wrong}, "CLASSES": None}), MMSEG, RECIPE, out
            )


def test_classes_of_other_names_than_the_recipes_are_noted(mmseg_file, tmp_path):
    names = ("street", *cityscapes.TABLE.names[1:])
    report = import_checkpoint(named(mmseg_file, {"CLASSES": names}), MMSEG, RECIPE, tmp_path / "out.safetensors")
    assert report.lines()[-1] == "note: classes have the names of the recipe: 'street' is 'road'"


def test_overrides_of_the_model_are_refused(mmseg_file, tmp_path):
    with pytest.raises(ConfigError, match=r"--set model\.dropout=0: the imported file says what the model is"):
        import_checkpoint(mmseg_file, MMSEG, RECIPE, tmp_path / "out.safetensors", ("model.dropout=0",))


@pytest.fixture
def model_state(shared: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with safe_open(shared / "parity" / "model-ccnet-r18.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
        names = [key for key in file.keys() if key.startswith("state/")]  # noqa: SIM118  not a mapping
        return config, {name.removeprefix("state/"): file.get_tensor(name) for name in names}


def config_text(config: dict[str, Any]) -> str:
    return f"norm_cfg = dict(type='SyncBN')\nmodel = {config!r}\n"


@pytest.mark.parametrize("key", ["cfg", "config"])
def test_the_config_inside_a_checkpoint_of_mmsegmentation_is_used(tmp_path: Path, model_state: Any, key: str) -> None:
    config, state = model_state
    torch.save({"meta": {key: config_text(config)}, "state_dict": state}, tmp_path / "mmseg.pth")
    imported = import_file(tmp_path / "mmseg.pth", MMSEG)
    model = Segmenter(model_config(imported.model, file="imported"), imported.segmenter.num_classes).eval()
    model.load_state_dict(imported.segmenter.state_dict())
    image = torch.randn(1, 3, 33, 41)
    expected = from_mmseg(config, state).segmenter(image).main
    torch.testing.assert_close(model(image).main, expected, rtol=1e-4, atol=1e-3)  # memory formats differ
    assert imported.report.num_used == len(state)


def test_the_input_convention_of_mmsegmentation_0_is_read(tmp_path: Path, model_state: Any) -> None:
    config, state = model_state
    config = {key: value for key, value in config.items() if key != "data_preprocessor"}
    text = "img_norm_cfg = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=True)\n" + config_text(config)
    torch.save({"meta": {"config": text}, "state_dict": state}, tmp_path / "old.pth")
    imported = import_file(tmp_path / "old.pth", MMSEG)
    expected = {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "order": "rgb", "channels": 3}
    assert imported.model["input"].items() >= expected.items()


@pytest.mark.timeout(60)
def test_other_values_than_texts_in_meta_are_passed_over() -> None:
    deep: Any = "x"
    for _ in range(60):
        deep = [deep, deep]
    assert _mmseg_names({"meta": {"classes": [deep], "dataset_meta": {"classes": ["a"]}}}) == ("a",)
    with pytest.raises(CheckpointError, match="carries no config"):
        _source_config({"meta": {"cfg": torch.zeros(2)}}, Path("x.pth"), None, "mmsegmentation")


def test_a_file_without_a_config_needs_one_beside_it(tmp_path: Path, model_state: Any) -> None:
    config, state = model_state
    save_file(state, str(tmp_path / "bare.safetensors"))
    with pytest.raises(CheckpointError, match="carries no config"):
        import_file(tmp_path / "bare.safetensors", MMSEG)
    (tmp_path / "config.py").write_text(config_text(config))
    imported = import_file(tmp_path / "bare.safetensors", ImportSettings("mmseg", source_config=tmp_path / "config.py"))
    assert imported.model["head"]["name"] == "rcca"


def test_an_unknown_source_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known: mmseg, ccnet, torchvision"):
        import_file(tmp_path / "any.pth", ImportSettings("paddle"))


def test_a_head_without_a_backbone_is_refused(tmp_path: Path, shared: Path) -> None:
    with safe_open(shared / "parity" / "head-ccnet-authors-r2.safetensors", "pt") as file:
        names = [key for key in file.keys() if key.startswith("state/")]  # noqa: SIM118  not a mapping
        state = {name.removeprefix("state/"): file.get_tensor(name) for name in names}
    save_file(state, str(tmp_path / "head.safetensors"))
    with pytest.raises(CheckpointError, match="a head alone"):
        import_file(tmp_path / "head.safetensors", ImportSettings("ccnet"))
