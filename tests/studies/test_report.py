from dataclasses import replace

import pytest

from segnl.evaluation.predictions import keep_predictions
from segnl.metrics.statistics.significance import Comparison
from segnl.reports.page import Grid
from segnl.runs.checkpoint import open_checkpoint
from segnl.studies.control import RunHashes, run_hashes_of
from segnl.studies.report import StudyFindings, write_report
from segnl.studies.run import report
from segnl.studies.study import load_study
from segnl.studies.table import HeadResult


def findings(study, refused):
    predictions = {run.name: keep_predictions(open_checkpoint(run.folder), run.recipe, "val") for run in study.runs}
    results = [HeadResult("fcn", (0.1,), (0.2,), 10, 1.0, None), HeadResult("rcca", (), (), 12, 1.0, None)]
    pairs = [Comparison("rcca", "fcn", 0, 1, None, reason="no run of rcca counts")]
    hashes = {run.name: run_hashes_of(run) for run in study.runs}
    return StudyFindings(results, pairs, [{}], predictions, hashes, refused, ["The verdict.", "More."])


def test_a_refused_run_is_named_on_the_page_and_left_out_of_its_charts(finished, monkeypatch):
    monkeypatch.chdir(finished)
    study = load_study(finished / "tiny.yaml")
    page = write_report(study, findings(study, {"rcca-s0": "was given other batches"})).read_text()
    assert "<strong>Refused:</strong> rcca-s0 was given other batches" in page
    assert page.count('title="undefined') >= 19  # every class of the head without a run
    report(study, None)  # as it was


def test_the_page_says_where_the_control_is_broken(finished, monkeypatch):
    monkeypatch.chdir(finished)
    study = load_study(finished / "tiny.yaml")
    found = findings(study, {})
    other = RunHashes(found.hashes["rcca-s0"].init, "deadbeef")
    page = write_report(study, replace(found, hashes={**found.hashes, "rcca-s0": other}))
    text = page.read_text()
    assert "deadbeef" in text
    assert text.count('<li class="broken">') == 1
    report(study, None)


def test_the_page_shows_what_breaking_the_attention_does(finished, monkeypatch):
    monkeypatch.chdir(finished)
    study = load_study(finished / "tiny.yaml")
    grid = Grid("Does it?", ["rcca: switched off -3.00"], [["head", "gamma0"], ["rcca", "-3.00"]], "A note.")
    text = write_report(study, replace(findings(study, {}), ablations=grid)).read_text()
    assert '<h2 id="ablations-title">Does it?</h2>' in text
    assert "rcca: switched off -3.00" in text
    assert '<td data-title="gamma0">-3.00</td>' in text
    report(study, None)


WORDS = ["commonest", "Parameters", "GFLOPs", "Training images/s", "Ambiguous pairs"]
WORDS += ["mIoU against cost", "Where context helps", "Learning curves", "By size of the object"]
WORDS += ["vs fcn", "images only", "rcca against fcn, class by class", "nothing about the heads"]


@pytest.mark.parametrize("words", WORDS)
def test_the_page_of_a_study_explains_what_it_shows(finished, words):
    assert words.lower() in (finished / "checkpoints" / "tiny" / "report.html").read_text().lower()
