import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from segnl.runs.recipe import compose
from segnl.studies import control
from segnl.studies.control import (
    LoggedHashes,
    RunHashes,
    compute_run_hashes,
    control_dict,
    logged_hashes,
    num_shared_tensors,
    refused_runs,
    run_hashes_of,
)
from segnl.studies.study import load_study


@pytest.fixture
def study(tmp_path, study_file):
    return load_study(study_file, runs=tmp_path / "runs")


def test_two_heads_of_one_seed_share_backbone_auxiliary_classifier_and_batches(study):
    fcn, rcca = (compute_run_hashes(run.recipe) for run in study.runs)
    assert fcn.batches == rcca.batches
    ours, theirs = fcn.modules(), rcca.modules()
    assert ours["head"] != theirs["head"]
    assert {name for name in ours if ours[name] == theirs[name]} == {"backbone", "auxiliary", "classifier"}
    hashes = {"fcn-s0": fcn, "rcca-s0": rcca}
    assert refused_runs(hashes, study.runs) == {}
    assert num_shared_tensors(hashes, study.runs) == len(fcn.init)  # rcca has all of fcn's, and the attention's besides


@pytest.mark.parametrize(
    "change",
    [{"train": {"seed": 1}}, {"data": {"crop_hw": (32, 96)}}, {"data": {"flip": False}}, {"train": {"batch_size": 1}}],
)
def test_another_seed_crop_flip_or_batch_size_changes_the_batches_hash(study, change):
    recipe = study.runs[0].recipe
    ((section, keys),) = change.items()
    other = recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=keys)})
    assert compute_run_hashes(other).batches != compute_run_hashes(recipe).batches


def test_a_run_with_other_weights_or_batches_is_refused_with_a_reason(study):
    one = RunHashes({"backbone.stem.weight 3x3": "aa", "head.x 5": "bb"}, "same")
    other_weights = replace(one, init={"backbone.stem.weight 3x3": "zz", "head.x 7": "cc"})
    other_batches = replace(one, batches="other")
    reasons = [refused_runs({"fcn-s0": one, "rcca-s0": bad}, study.runs) for bad in (other_weights, other_batches)]
    assert "other weights than fcn-s0 at backbone.stem.weight 3x3" in reasons[0]["rcca-s0"]
    assert "different batches than fcn-s0 (other, not same)" in reasons[1]["rcca-s0"]


@pytest.mark.parametrize(
    ("varies", "place", "is_refused"),
    [
        (("model.head",), "head.gamma 1", False),
        (("model.head",), "backbone.stem.weight 3x3", True),
        (("model.backbone",), "backbone.stem.weight 3x3", False),
        (("model.backbone.zero_init_residual",), "backbone.stem.weight 3x3", False),
        (("model",), "backbone.stem.weight 3x3", False),
        (("model.aux",), "auxiliary.classifier.weight 3x3", False),
        (("model.header",), "head.gamma 1", True),
        (("loss", "optim.lr"), "head.gamma 1", True),
    ],
)
def test_weights_may_differ_in_what_the_study_varies_and_nowhere_else(study, varies, place, is_refused):
    one, two = RunHashes({place: "aa"}, "same"), RunHashes({place: "bb"}, "same")
    assert bool(refused_runs({"fcn-s0": one, "rcca-s0": two}, study.runs, varies=varies)) == is_refused


@pytest.mark.parametrize(
    ("varies", "is_refused"),
    [
        (("model.head",), True),
        (("train.max_steps",), True),
        (("train.batch_size",), False),
        (("train",), False),
        (("data.flip",), False),
        (("data",), False),
        (("model.input",), False),
    ],
)
def test_batches_may_differ_where_the_study_varies_what_makes_them(study, varies, is_refused):
    one, two = RunHashes({}, "same"), RunHashes({}, "other")
    assert bool(refused_runs({"fcn-s0": one, "rcca-s0": two}, study.runs, varies=varies)) == is_refused
    logged = {
        "fcn-s0": LoggedHashes({1: "a", 2: "b", 3: "c"}, None),
        "rcca-s0": LoggedHashes({1: "a", 2: "x", 3: "c"}, None),
    }
    hashes = dict.fromkeys(logged, one)
    assert bool(refused_runs(hashes, study.runs, logged, varies=varies)) == is_refused


def test_runs_are_compared_within_their_seed_in_any_order(study):
    one = RunHashes({"backbone.stem.weight 3x3": "aa"}, "same")
    fcn, rcca = study.runs
    apart = [fcn, replace(fcn, head="aspp", seed=1), rcca]
    hashes = {"fcn-s0": one, "aspp-s1": replace(one, batches="of seed 1"), "rcca-s0": replace(one, batches="other")}
    assert list(refused_runs(hashes, apart)) == ["rcca-s0"]


def test_a_parameter_of_another_shape_is_another_parameter(study):
    one, two = RunHashes({"classifier.weight 3x8": "aa"}, "x"), RunHashes({"classifier.weight 3x16": "bb"}, "x")
    assert refused_runs({"fcn-s0": one, "rcca-s0": two}, study.runs) == {}


def test_hashes_are_computed_once_and_kept_with_the_run(study, monkeypatch):
    run = study.runs[0]
    computed = run_hashes_of(run)
    monkeypatch.setattr(control, "compute_run_hashes", lambda _: pytest.fail("computed again"))
    assert run_hashes_of(run) == computed


@pytest.mark.parametrize("changed", ["recipe", "image"])
def test_hashes_of_another_recipe_or_other_images_are_computed_again(study, streets, tmp_path, changed):
    shutil.copytree(streets, tmp_path / "streets")
    mapping = study.runs[0].recipe.to_dict()
    mapping["data"]["root"] = str(tmp_path / "streets")
    run = replace(study.runs[0], recipe=compose(mapping, "recipe"))
    computed = run_hashes_of(run)
    if changed == "recipe":
        mapping["train"]["seed"] += 1
        run = replace(run, recipe=compose(mapping, "recipe"))
    else:
        for path in (tmp_path / "streets").rglob("*_leftImg8bit.png"):
            Image.fromarray(np.asarray(Image.open(path)) ^ 1).save(path)
    assert run_hashes_of(run).batches != computed.batches


def test_the_json_holds_a_hash_for_every_module_and_run():
    mapping = control_dict({"fcn-s0": RunHashes({"backbone.x 1": "a", "head.y 2": "b"}, "c")}, {"fcn-s0": "why"})
    assert set(mapping["init"]["fcn-s0"]) == {"backbone", "head"}
    assert mapping["batches"] == {"fcn-s0": "c"}
    assert mapping["refused"] == {"fcn-s0": "why"}


PLANNED = RunHashes({"backbone.x 1": "aa"}, "same")
SEEN = {1: "p", 2: "q", 3: "r"}


def test_a_first_run_that_deviates_from_its_recipe_is_refused_and_the_others_are_not(study):
    planned = replace(PLANNED, first=("p", "q"))
    other = LoggedHashes({1: "q", 2: "p", 3: "r"}, None)
    refused = refused_runs(
        {"fcn-s0": planned, "rcca-s0": planned}, study.runs, {"fcn-s0": other, "rcca-s0": LoggedHashes(SEEN, None)}
    )
    assert list(refused) == ["fcn-s0"]
    assert "used different batches than its recipe and seed specify, at step 1" in refused["fcn-s0"]


def test_the_first_batches_of_a_recipe_are_those_that_its_training_logs(finished, monkeypatch):
    monkeypatch.chdir(finished)
    for run in load_study(finished / "tiny.yaml").runs:
        assert compute_run_hashes(run.recipe).first == tuple(logged_hashes(run.folder).batches[step] for step in (1, 2))


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (LoggedHashes(SEEN, None), None),
        (LoggedHashes(SEEN, PLANNED.modules()), None),
        (LoggedHashes({}, None), None),
        (
            LoggedHashes({1: "p", 2: "r", 3: "q"}, None),
            "used different batches than fcn-s0 at 2 of 3 steps, first at step 2",
        ),
        (LoggedHashes({1: "p", 2: "q"}, None), "has 2 of 3 steps in its log.jsonl"),
        (LoggedHashes(SEEN | {4: "s"}, None), "has 4 of 3 steps in its log.jsonl"),
        (
            LoggedHashes(SEEN, {"backbone": "bb"}),
            "started from other weights than its recipe and seed specify (backbone)",
        ),
    ],
)
def test_a_log_must_hold_the_planned_steps_batches_and_weights(study, theirs, reason):
    hashes = {"fcn-s0": PLANNED, "rcca-s0": PLANNED}
    refused = refused_runs(hashes, study.runs, {"fcn-s0": LoggedHashes(SEEN, None), "rcca-s0": theirs})
    assert refused.keys() == ({"rcca-s0"} if reason else set())
    assert reason is None or reason in refused["rcca-s0"]


def test_batches_are_read_from_the_log_but_not_from_one_of_several_ranks(study):
    run = study.runs[0]
    run.folder.mkdir(parents=True)
    lines = [{"event": "start", "ranks": 1, "init": {"backbone": "x"}}, {"step": 1, "batch": "p"}]
    log = run.folder / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"event": "end", "step": 1}]))
    assert logged_hashes(run.folder) == LoggedHashes({1: "p"}, {"backbone": "x"})
    log.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"event": "start", "ranks": 2}]))
    assert logged_hashes(run.folder) == LoggedHashes({}, {"backbone": "x"})
    assert logged_hashes(run.folder).all_batches is None
    assert LoggedHashes({1: "p", 2: "q"}, None).all_batches != LoggedHashes({1: "q", 2: "p"}, None).all_batches
