import json
import os
import signal

import pytest
import torch

from segnl.core.errors import CheckpointError, ConfigError, DataError, MachineError
from segnl.engine.fit import fit
from segnl.engine.recipe import load_recipe
from segnl.inspection.score import predict_files, score


@pytest.fixture
def run(tiny_config, tmp_path):
    fit(load_recipe(tiny_config), tmp_path / "run")
    return tmp_path / "run"


def scored(run, *overrides):
    return score(run, split="val", overrides=overrides, masks=None, json_file=None)


def test_the_protocol_may_be_another_than_the_recipes_and_is_written_down(run):
    metrics = scored(run, "eval.mode=slide", "eval.window_hw=[24, 32]", "eval.stride_hw=[16, 16]")
    assert metrics == json.loads((run / "eval" / "val-slide" / "metrics.json").read_text())
    assert metrics["eval"]["window_hw"] == [24, 32]
    assert (metrics["checkpoint"], metrics["step"]) == ("step-00000006.safetensors", 6)


def test_the_network_may_not_be_another(run):
    with pytest.raises(CheckpointError, match=r"another model\.head\.recurrence"):
        scored(run, "model.head.recurrence=3")


def test_a_damaged_image_leaves_no_metrics(run, tiny_data):
    path = tiny_data / "images" / "val" / "frame2.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="frame2"):
        scored(run)
    assert not (run / "eval" / "val-whole" / "metrics.json").exists()


def test_an_evaluation_killed_half_way_leaves_no_metrics(run, tmp_path, monkeypatch):
    def kill_at_the_second(folder, stem, *_, **__):
        (tmp_path / stem).touch()
        if stem == "frame1":
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("segnl.inspection.score.write_masks", kill_at_the_second)
    child = os.fork()  # a start of Python would cost seconds
    if child == 0:
        try:
            torch.set_num_threads(1)  # the pool of threads did not come along
            score(run, split="val", overrides=(), masks=tmp_path / "masks", json_file=tmp_path / "m.json")
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert (tmp_path / "frame0").exists()
    assert not (run / "eval" / "val-whole" / "metrics.json").exists()
    assert not (tmp_path / "m.json").exists()


def test_an_unwritable_mask_folder_is_refused_before_anything_is_scored(run, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError, match="file/masks"):
        score(run, split="val", overrides=(), masks=tmp_path / "file" / "masks", json_file=None)
    assert not (run / "eval" / "val-whole" / "metrics.json").exists()


def test_two_images_of_one_name_would_overwrite_each_other_and_are_refused(run, tiny_data, tmp_path):
    images = [tiny_data / "images" / split / "frame0.png" for split in ("train", "val")]
    with pytest.raises(ConfigError, match="would overwrite"):
        predict_files(run, images, tmp_path / "out")


@pytest.mark.parametrize(("name", "says"), [("nothing.png", "no such file"), ("labels", "holds no images")])
def test_what_holds_no_image_is_named(run, tmp_path, name, says):
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match=says):
        predict_files(run, [tmp_path / name], tmp_path / "out")
