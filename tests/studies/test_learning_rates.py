import json
from dataclasses import asdict, replace

import pytest

from segnl.core.errors import ConfigError, NonFiniteError
from segnl.core.result_cache import Record, ResultCache
from segnl.core.run_log import read_log
from segnl.runs.checkpoint import checkpoints_of, newest_checkpoint, save_checkpoint
from segnl.studies import run as run_module
from segnl.studies.learning_rates import LearningRates, search_mappings, store_rates, stored_rates
from segnl.studies.run import compare, compute_features
from segnl.studies.study import load_study
from segnl.training.features import FeatureFile
from segnl.training.fit import fit

SEARCH = "learning_rates: {grid: [1e-3, 0.5], steps: 2, folds: 2}\ngallery: 1\nattention_images: 0\n"
FROZEN = (
    "overrides: {model: {backbone: {frozen: true}, aux: null}, data: {views: 2}, train: {features: {dtype: float32}}}\n"
)


def append(study_file, text):
    study_file.write_text(study_file.read_text() + text)
    return study_file


def test_each_head_gets_the_rate_that_scores_best_on_images_left_out(study_file, monkeypatch):
    def fit_or_diverge(recipe, folder):
        if recipe.optim.lr == 0.5:
            folder.joinpath("log.jsonl").write_text('{"event": "non_finite", "step": 1}\n')
            raise NonFiniteError("step 2: the loss is nan")
        fit(recipe, folder)

    monkeypatch.chdir(study_file.parent)
    monkeypatch.setattr(run_module, "fit", fit_or_diverge)
    results = compare(append(study_file, SEARCH))
    folder = results.study.folder
    chosen = results.study.search.chosen
    assert chosen.rates == {"fcn": 1e-3, "rcca": 1e-3}
    assert chosen.miou["fcn"]["0.5"] is None  # it diverged
    assert chosen.miou["rcca"]["0.001"] > 0
    assert chosen.at_edge() == ["fcn", "rcca"]
    search = newest_checkpoint(folder / "fcn-lr0.001-s0")
    assert search.recipe["data"]["fold"] == {"count": 2, "number": 0, "seed": 0}
    assert search.step == 2
    assert newest_checkpoint(folder / "fcn-s0").recipe["optim"]["lr"] == 1e-3
    assert json.loads((folder / "compare.json").read_text())["learning_rates"]["rates"] == chosen.rates
    page = (folder / "report.html").read_text()
    assert "the same budget for every head: 2 rates, 2 steps each, on 1 of 2 parts of the training images" in page
    assert not results.refused

    def no_training(*args, **keywords):
        raise AssertionError("trained again")

    monkeypatch.setattr(run_module, "fit", no_training)
    assert compare(study_file).study.search.chosen == chosen
    data = search.origin["data"] | {"content": "that of other labels"}
    save_checkpoint(replace(search, origin=search.origin | {"data": data}))
    assert compare(study_file).with_changed_data == ["fcn-lr0.001-s0"]
    study_file.write_text(study_file.read_text().replace("steps: 2", "steps: 1"))
    with pytest.raises(ConfigError, match=r"fcn-lr0\.001-s0: was trained with another recipe, .* train\.max_steps"):
        compare(study_file)


def test_a_study_without_a_search_says_that_one_rate_serves_all(finished):
    page = (finished / "checkpoints/tiny/report.html").read_text()
    assert "one for all heads, 0.001, not searched" in page


def test_the_highest_score_decides_and_a_head_that_always_diverges_is_an_error(tmp_path):
    miou = {"fcn": {"0.1": 0.2, "0.001": 0.4, "0.01": None}, "rcca": {"0.1": 0.3, "0.001": 0.1, "0.01": 0.35}}
    key = {"heads": ["fcn", "rcca"], "grid": [0.1, 0.01, 0.001]}
    store_rates(tmp_path, key, miou, [])
    chosen = stored_rates(tmp_path, key)
    assert chosen.rates == {"fcn": 0.001, "rcca": 0.01}
    assert chosen.at_edge() == ["fcn"]
    assert stored_rates(tmp_path, key | {"a": 2}) is None
    for rates in ("edited", {"fcn": 0.001}, {"fcn": 0.001, "rcca": 0.1}):  # a head is missing, not the best
        ResultCache.of(tmp_path).store("learning-rates", Record(key, asdict(chosen) | {"rates": rates}))
        assert stored_rates(tmp_path, key) is None
    with pytest.raises(ConfigError, match="every training of fcn diverged; give lower rates"):
        store_rates(tmp_path, {}, {"fcn": {"0.1": None}}, [])


def test_rates_keep_all_their_digits_and_stand_once():
    cfg = LearningRates(grid=(0.01, 0.0031622776601683794), steps=1)
    mappings = search_mappings(cfg, {}, where="x")
    assert {text: own["optim"]["lr"] for text, own in mappings.items()} == {
        "0.01": 0.01,
        "0.0031622776601683794": 0.0031622776601683794,
    }
    with pytest.raises(ValueError, match="a rate stands twice; name it once"):
        LearningRates(grid=(0.01, 0.01), steps=1)


def test_a_search_within_a_fold_is_refused(study_file, tmp_path):
    append(study_file, SEARCH + "overrides: {data: {fold: {count: 2, number: 1}}}\n")
    with pytest.raises(ConfigError, match=r"heads\.fcn: data\.fold: learning_rates sets it"):
        load_study(study_file, runs=tmp_path / "runs")


def test_overrides_of_the_call_come_after_the_study_s(study_file, tmp_path):
    append(study_file, "overrides: {train: {max_steps: 5}}\n")
    study = load_study(study_file, runs=tmp_path / "runs", overrides=["train.max_steps=4", "optim.lr=0.5"])
    assert {(run.recipe.train.max_steps, run.recipe.optim.lr) for run in study.runs} == {(4, 0.5)}


def test_heads_share_maps_that_are_computed_once_and_train_as_they_would_alone(study_file, tmp_path, monkeypatch):
    study_file.write_text(study_file.read_text().replace("name: rcca, channels", "name: uper, channels"))
    study = load_study(append(study_file, FROZEN), runs=tmp_path / "runs")
    calls = []
    original = FeatureFile._maps_of
    monkeypatch.setattr(
        FeatureFile, "_maps_of", lambda self, crop: calls.extend(crop.sample_ids) or original(self, crop)
    )
    compute_features(study.runs)
    images = [*filter(None, calls)]  # the others are for the shapes
    assert len(images) == 5 * 2
    (folder,) = [path for path in (study.folder / "features").iterdir() if path.is_dir()]
    assert {"c2", "c3", "c4", "c5"} <= {path.name for path in folder.iterdir()}
    for run in study.runs:
        fit(run.recipe, run.folder)
        alone = run.recipe.model_copy(update={"train": run.recipe.train.model_copy(update={"features": None})})
        fit(alone, tmp_path / "alone" / run.name)
        ours, theirs = newest_checkpoint(run.folder), newest_checkpoint(tmp_path / "alone" / run.name)
        assert all((ours.model[name] == theirs.model[name]).all() for name in theirs.model)
        assert len(read_log(run.folder / "log.jsonl")) == 1 + 3 + 1
        assert checkpoints_of(run.folder)
    assert [*filter(None, calls)] == images
