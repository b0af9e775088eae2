from pathlib import Path

import pytest

from segnl.models.find import HEADS
from segnl.runs.recipe import differing_keys
from segnl.studies.study import load_study

ROOT = Path(__file__).resolve().parents[2]
AA = ("aa_streets", "streets")


@pytest.mark.parametrize("name", ["streets", "camvid", "cityscapes_r50", "ade20k_r50"])
def test_a_shipped_study_is_valid_and_has_the_four_heads(tmp_path, name):
    study = load_study(ROOT / "configs" / "compare" / f"{name}.yaml", runs=tmp_path)
    assert [run.recipe.model.head.name for run in study.runs[:4]] == ["fcn", "aspp", "non_local", "rcca"]
    assert study.cfg.seeds == (0, 1, 2)
    steps = {"streets": 480, "camvid": 400, "cityscapes_r50": 80_000, "ade20k_r50": 80_000}
    assert {run.recipe.train.max_steps for run in study.runs} == {steps[name]}


def test_the_shipped_a_a_study_is_one_recipe_twice_with_distinct_seeds(tmp_path):
    aa, streets = (load_study(ROOT / "configs" / "compare" / f"{name}.yaml", runs=tmp_path) for name in AA)
    assert aa.same_recipes == (aa.heads,)
    assert sorted(run.seed for run in aa.runs) == list(range(8))
    assert aa.shared_seed is None
    ours, theirs = (study.runs[0].recipe for study in (aa, streets))
    assert 2 * ours.train.max_steps == theirs.train.max_steps
    assert differing_keys(ours.to_dict(), theirs.to_dict()) == ["train.max_steps"]


def test_the_arena_has_all_heads_on_one_frozen_backbone_with_kept_maps(tmp_path):
    study = load_study(ROOT / "configs" / "compare" / "arena_camvid.yaml", runs=tmp_path)
    assert {run.recipe.model.head.name for run in study.runs} == set(HEADS.names())
    assert study.cfg.seeds == (0, 1, 2, 3, 4)
    assert study.heads[0] == "fcn"
    for run in study.runs:
        assert run.recipe.has_fixed_features
        assert run.recipe.train.features is not None
    steps = {head: tuple(run.recipe.train.max_steps for run in own.values()) for head, own in study.search.runs.items()}
    assert set(steps.values()) == {(100, 100, 100, 100)}
