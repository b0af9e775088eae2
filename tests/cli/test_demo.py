from pathlib import Path

import pytest

from segnl.cli import demo as demo_module
from segnl.runs.recipe import differing_keys
from segnl.streets.files import read_manifest
from segnl.studies.study import load_study

ROOT = Path(__file__).resolve().parents[2]
AA = ("aa_streets", "streets")


@pytest.mark.parametrize("name", ["demo", "streets", "camvid", "cityscapes_r50", "ade20k_r50"])
def test_a_shipped_study_is_valid_and_has_the_four_heads(tmp_path, name):
    study = load_study(ROOT / "configs" / "compare" / f"{name}.yaml", runs=tmp_path)
    assert [run.recipe.model.head.name for run in study.runs[:4]] == ["fcn", "aspp", "non_local", "rcca"]
    assert study.cfg.seeds == ((0,) if name == "demo" else (0, 1, 2))
    steps = {"demo": 240, "streets": 480, "camvid": 400, "cityscapes_r50": 80_000, "ade20k_r50": 80_000}
    assert {run.recipe.train.max_steps for run in study.runs} == {steps[name]}


def test_the_shipped_a_a_study_is_one_recipe_twice_with_distinct_seeds(tmp_path):
    aa, streets = (load_study(ROOT / "configs" / "compare" / f"{name}.yaml", runs=tmp_path) for name in AA)
    assert aa.same_recipes == (aa.heads,)
    assert sorted(run.seed for run in aa.runs) == list(range(8))
    assert aa.shared_seed is None
    ours, theirs = (study.runs[0].recipe for study in (aa, streets))
    assert 2 * ours.train.max_steps == theirs.train.max_steps
    assert differing_keys(ours.to_dict(), theirs.to_dict()) == ["train.max_steps"]


def test_the_demo_trains_on_the_streets_that_it_makes(tmp_path):
    study = load_study(ROOT / demo_module.STUDY, runs=tmp_path)
    assert {run.recipe.data.root for run in study.runs} == {demo_module.DATA}
    assert study.cfg.seeds == (0,)


def test_streets_are_made_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(demo_module, "NUM_TRAIN", 2)
    monkeypatch.setattr(demo_module, "NUM_VAL", 1)
    monkeypatch.setattr(demo_module, "HW", (64, 128))
    caplog.set_level("INFO", logger="segnl")
    demo_module.make_streets(tmp_path / "streets")
    assert read_manifest(tmp_path / "streets")["complete"] is True
    assert "making 3 streets" in caplog.text
    caplog.clear()
    demo_module.make_streets(tmp_path / "streets")
    assert caplog.text == ""
