import json
import logging
from dataclasses import replace

import pytest
import torch

from segnl.core.errors import CheckpointError
from segnl.core.run_log import read_log
from segnl.runs.build import build_model
from segnl.runs.checkpoint import checkpoints_of, load_checkpoint, save_checkpoint
from segnl.runs.recipe import load_recipe
from segnl.training.fit import fit


@pytest.fixture
def trained(tiny_config, tmp_path):
    """A run of one step whose checkpoint holds an EMA."""
    fit(load_recipe(tiny_config, ["train.max_steps=1", "train.ema=0.9"]), tmp_path / "trained")
    return tmp_path / "trained"


def init_from(config, run, num_classes=3, *overrides):
    """The new network, its report, and the tensors of the run's EMA."""
    recipe = load_recipe(config, [f"init={run}", *overrides])
    model = build_model(recipe, num_classes, is_new=True)
    return model.state_dict(), model.init_report, load_checkpoint(checkpoints_of(run)[0]).ema


def test_the_same_network_takes_every_tensor_from_the_ema(tiny_config, trained):
    state, report, ema = init_from(tiny_config, trained)
    assert all(torch.equal(state[name], ema[name]) for name in state)
    assert sorted(report["taken"]) == sorted(state)
    assert report["redrawn"] == report["left_out"] == {}
    assert report["checksum"] == load_checkpoint(checkpoints_of(trained)[0]).checksum


def test_a_checkpoint_file_is_as_good_as_its_run(tiny_config, trained):
    assert init_from(tiny_config, checkpoints_of(trained)[0].parent)[1] == init_from(tiny_config, trained)[1]


def test_another_number_of_classes_redraws_the_classifiers_only(tiny_config, trained, caplog):
    caplog.set_level(logging.INFO, "segnl")
    state, report, ema = init_from(tiny_config, trained, 5)
    drawn = build_model(load_recipe(tiny_config), 5, is_new=True).state_dict()
    classifiers = {f"{layer}.{name}" for layer in ("classifier", "auxiliary.classifier") for name in ("weight", "bias")}
    assert report["redrawn"].keys() == report["left_out"].keys() == classifiers
    assert all(torch.equal(state[name], (drawn if name in classifiers else ema)[name]) for name in state)
    assert "4 redrawn, 4 left out" in caplog.text
    assert "redrawn (3 classes in the file, 5 here): classifier.weight" in caplog.text


def test_a_heads_own_classifier_is_redrawn_with_the_others(tiny_config, tmp_path):
    ocr = ["model.head={name: ocr, channels: 8, coarse: {channels: 8}}", "model.aux=null"]
    fit(load_recipe(tiny_config, ["train.max_steps=1", *ocr]), tmp_path / "ocr")
    recipe = load_recipe(tiny_config, [f"init={tmp_path / 'ocr'}", *ocr])
    report = build_model(recipe, 7, is_new=True).init_report
    layers = {name.rpartition(".")[0] for name in report["redrawn"]}
    assert len(layers) == 2
    assert all(layer == "classifier" or layer.startswith("head.") for layer in layers)


def test_another_head_takes_the_backbone_and_the_auxiliary_head(tiny_config, trained):
    state, report, ema = init_from(tiny_config, trained, 3, "model.head={name: gc, channels: 12}")
    assert {name.split(".")[0] for name in report["taken"]} == {"backbone", "auxiliary"}
    assert {name.split(".")[0] for name in report["redrawn"]} == {"head", "classifier"}
    assert all(torch.equal(state[name], ema[name]) for name in report["taken"])


def test_another_backbone_is_an_error_that_names_both_sides(tiny_config, trained):
    with pytest.raises(CheckpointError, match=r"nothing fits.*width is 0\.\d+ there, 0\.25 here") as err:
        init_from(tiny_config, trained, 3, "model.backbone.width=0.25")
    assert err.value.exit_code == 4
    assert "\n" not in str(err.value)


def test_a_file_that_lacks_a_part_of_the_backbone_is_an_error(tiny_config, trained, tmp_path):
    checkpoint = load_checkpoint(checkpoints_of(trained)[0])
    tensors = {name: value for name, value in checkpoint.model.items() if not name.startswith("backbone.layer3")}
    save_checkpoint(replace(checkpoint, path=tmp_path / "x.safetensors", model=tensors, ema={}))
    with pytest.raises(CheckpointError, match=r"backbone\.layer3\S+ is not in the file"):
        build_model(load_recipe(tiny_config, [f"init={tmp_path / 'x.safetensors'}"]), 3, is_new=True)


def test_a_missing_file_is_an_error(tiny_config, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: cannot be read"):
        init_from(tiny_config, tmp_path / "nowhere")


def test_init_replaces_pretrained_weights_of_the_backbone(tiny_config, trained):
    report = init_from(tiny_config, trained, 3, "model.backbone.weights=/no/such/file.pth")[1]
    assert report["redrawn"] == {}


def test_a_run_records_its_init_and_resumes_without_the_file(tiny_config, trained, tmp_path):
    run, moved = tmp_path / "run", tmp_path / "moved"
    recipe = load_recipe(tiny_config, [f"init={trained}"])
    fit(recipe, run)
    report = json.loads((run / "init.json").read_text())
    last, source = load_checkpoint(checkpoints_of(run)[0]), {key: report[key] for key in ("file", "checksum")}
    assert read_log(run / "log.jsonl")[0]["init_file"] == source == last.origin["init"]
    trained.rename(moved)
    checkpoints_of(run)[0].unlink()
    fit(recipe, run)
    again = load_checkpoint(checkpoints_of(run)[0])
    assert again.origin["init"] == source
    assert all(torch.equal(again.model[name], last.model[name]) for name in last.model)
