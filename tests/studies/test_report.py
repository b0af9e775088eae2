import html
import json
from dataclasses import replace

import pytest

from segnl.evaluation.evaluate_run import evaluate_run
from segnl.metrics.statistics.comparison import Comparison
from segnl.models.ablation import Ablation
from segnl.runs.run import open_run
from segnl.studies.ablations import AblationResult
from segnl.studies.control import RunHashes, run_hashes_of
from segnl.studies.report import write_report
from segnl.studies.results import HeadResult, StudyResults, collect_results
from segnl.studies.run import write_results
from segnl.studies.study import load_study


@pytest.fixture
def study(finished, monkeypatch):
    """The finished study; its files are restored afterwards."""
    monkeypatch.chdir(finished)
    study = load_study(finished / "tiny.yaml")
    yield study
    write_results(collect_results(study))


def results_of(study, **changes):
    """Made-up scores for the real runs of the study."""
    predictions = {run.name: evaluate_run(open_run(run.folder)) for run in study.runs}
    heads = [
        HeadResult("fcn", 0.1, None, 1, None, 10, 1.0, None, ambiguous_acc=0.2),
        HeadResult("rcca", None, None, 0, None, 12, 1.0, None),
    ]
    pairs = [Comparison("rcca", "fcn", 0, 1, None, reason="no run of rcca counts")]
    hashes = {run.name: run_hashes_of(run) for run in study.runs}
    results = StudyResults(study, predictions, hashes, {}, {}, {}, None, (), heads=heads, pairs=pairs, classes=[{}])
    return replace(results, **changes)


def page_of(study, results):
    write_report(results)
    return (study.folder / "report.html").read_text()


def test_a_refused_run_is_named_on_the_page_and_left_out_of_its_charts(study):
    page = page_of(study, results_of(study, refused={"rcca-s0": "used different batches"}))
    assert "<strong>Refused:</strong> rcca-s0 used different batches" in page
    assert page.count('title="undefined') >= 19  # every class of the head without a run


def test_the_page_shows_where_the_control_is_broken(study):
    results = results_of(study)
    other = RunHashes(results.hashes["rcca-s0"].init, "deadbeef")
    page = page_of(study, replace(results, hashes={**results.hashes, "rcca-s0": other}))
    assert "deadbeef" in page
    assert page.count('<li class="broken">') == 1


def test_the_page_s_command_names_the_options_of_the_study(study):
    study = replace(study, overrides=("eval.mode=whole", "a={b: 1}"))
    page = html.unescape(page_of(study, results_of(study)))
    assert f"segnl compare --config {study.file} --set eval.mode=whole --set 'a={{b: 1}}'    # this study" in page


def test_the_page_shows_the_ablations(study):
    page = page_of(study, results_of(study, ablations=[AblationResult("rcca", Ablation("gamma0"), {"a": -0.03}, {})]))
    assert '<h2 id="ablations-title">Does the context matter?</h2>' in page
    assert "rcca: attention switched off -3.00" in page
    assert '<td data-title="gamma0: attention switched off">-3.00</td>' in page


def test_the_page_has_the_attention_of_every_heads_first_seed(study):
    page = page_of(study, results_of(study))
    assert "Attention: where a pixel looks" in page
    networks = json.loads((study.folder / "attention.json").read_text())["networks"]
    assert {name: next(iter(own["measures"])) for name, own in networks.items()} == {
        "fcn": "receptive field",
        "rcca": "all hops",
    }
    without = replace(study, cfg=study.cfg.model_copy(update={"attention_images": 0}))
    assert "Attention: where a pixel looks" not in page_of(without, results_of(without))
    assert not (study.folder / "attention.json").exists()


WORDS = ["commonest", "Parameters", "GFLOPs", "Training images/s", "Ambiguous pairs"]
WORDS += ["mIoU against cost", "Where context helps", "Learning curves", "By size of the object"]
WORDS += ["vs fcn", "images only", "rcca against fcn, class by class", "nothing about the heads"]


@pytest.mark.parametrize("words", WORDS)
def test_the_page_of_a_study_explains_what_it_shows(finished, words):
    assert words.lower() in (finished / "checkpoints" / "tiny" / "report.html").read_text().lower()
