import dataclasses

import pytest
import torch

from segnl.core.errors import CheckpointError
from segnl.models.heads.rcca import RCCAHead
from segnl.models.segmenter import Segmenter
from segnl.runs.checkpoint import checkpoints_of, save_checkpoint
from segnl.runs.recipe import load_recipe
from segnl.runs.run import finished_run, open_run
from segnl.training.fit import fit


@pytest.fixture
def folder(tiny_config, tmp_path):
    fit(load_recipe(tiny_config), tmp_path / "run")
    return tmp_path / "run"


def test_overrides_come_after_settings_and_both_after_the_checkpoint_s_recipe(folder):
    run = open_run(folder, ["eval.batch_size=3"], settings={"eval": {"batch_size": 2, "flip": True}})
    assert (run.recipe.eval.batch_size, run.recipe.eval.flip) == (3, True)
    assert open_run(folder).recipe.to_dict() == load_recipe(folder / "recipe.yaml").to_dict()


def test_the_network_may_not_be_another(folder):
    with pytest.raises(CheckpointError, match=r"another model\.head\.recurrence"):
        open_run(folder, ["model.head.recurrence=3"])


def test_a_file_is_a_run_too_and_only_the_last_checkpoint_is_the_last(folder):
    last = checkpoints_of(folder)[0]
    assert open_run(last).folder == folder
    assert open_run(last).is_last_checkpoint
    best = last.with_name("best.safetensors")
    best.write_bytes(last.read_bytes())
    assert not open_run(best).is_last_checkpoint
    (folder / "imported").mkdir()
    assert not open_run(best.rename(folder / "imported" / "own.safetensors")).is_last_checkpoint


@pytest.mark.parametrize("head", [{"kernel": 2}, {"num_convs": 0, "channels": 16}, {"in_stages": [9]}])
def test_a_checkpoint_whose_settings_do_not_go_together_is_one_line(folder, head):
    run = open_run(folder)
    model = run.checkpoint.recipe["model"] | {"head": {"name": "fcn", **head}}
    save_checkpoint(dataclasses.replace(run.checkpoint, recipe=run.checkpoint.recipe | {"model": model}))
    with pytest.raises(CheckpointError, match=r"step-00000006\.safetensors: its settings describe no network") as err:
        open_run(folder).build_model()
    assert "\n" not in str(err.value)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_checkpoint_whose_recipe_asks_for_another_network_gets_no_memory_for_it(folder, norm, monkeypatch):
    run, devices, original = open_run(folder), [], Segmenter.__init__
    model = run.checkpoint.recipe["model"] | {"head": {"name": "fcn", "channels": 24}, "norm": norm}
    save_checkpoint(dataclasses.replace(run.checkpoint, recipe=run.checkpoint.recipe | {"model": model}))

    def build(self, *args, **settings):
        original(self, *args, **settings)
        devices.append(self.classifier.weight.device.type)

    monkeypatch.setattr(Segmenter, "__init__", build)
    with pytest.raises(CheckpointError, match="tensors do not fit the model"):
        open_run(folder).build_model()
    assert devices == ["meta"]


def test_a_module_that_needs_values_when_it_is_built_can_be_loaded(folder, monkeypatch):
    run, original = open_run(folder), RCCAHead.__init__

    def build(*args):
        original(*args)
        assert torch.ones(1).item() == 1.0

    monkeypatch.setattr(RCCAHead, "__init__", build)
    assert torch.equal(run.build_model().classifier.weight, run.checkpoint.model["classifier.weight"])


def test_a_run_that_was_stopped_early_is_not_finished(folder):
    longer = load_recipe(folder / "recipe.yaml", ["train.max_steps=7"])
    with pytest.raises(CheckpointError, match="not trained to its end"):
        finished_run(folder, longer)
    assert finished_run(folder, load_recipe(folder / "recipe.yaml")).checkpoint.step == 6
