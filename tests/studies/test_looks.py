"""Stop rules and the record of looks, without training: the verdicts are given."""

from types import SimpleNamespace

import pytest

from segnl.core.errors import ConfigError, DataError
from segnl.metrics.statistics.comparison import Comparison
from segnl.metrics.statistics.planning import Looks
from segnl.studies import run as run_module
from segnl.studies.results import unplanned_looks
from segnl.studies.run import compare
from segnl.studies.study import load_study
from segnl.studies.verdicts import fallen_verdict, look_verdicts

RULE = "{at_least: 2, at_most: 4, until: settled}"
OPEN = Comparison("rcca", "fcn", 2, 2, 0.01, -0.02, 0.04, p=0.3, p_holm=0.3)


def with_seeds(study_file, seeds):
    study_file.write_text(study_file.read_text().replace("seeds: [0]", f"seeds: {seeds}"))
    return study_file


def test_a_stop_rule_plans_the_same_seeds_for_every_head(study_file):
    path = with_seeds(study_file, RULE)
    study = load_study(path, runs=path.parent / "runs")
    assert [run.name for run in study.runs] == ["fcn-s0", "rcca-s0", "fcn-s1", "rcca-s1"]
    assert study.looks == Looks((2,), 4)
    more = load_study(path, runs=path.parent / "runs", num_seeds=4)
    assert more.seeds_of("rcca") == (0, 1, 2, 3)
    assert more.looks == Looks((2, 3, 4), 4)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{at_least: 4, at_most: 4, until: settled}", "at_least: 4; expected less than at_most, 4"),
        ("{at_least: 3, at_most: 9}", "until: "),
        ("{at_least: 3, at_most: 1000, until: settled}", "at_most: Input should be less than or equal to 50"),
        ("{at_least: 3, until: bored}", "until: Input should be 'settled'"),
    ],
)
def test_a_stop_rule_that_cannot_be_followed_is_one_line(study_file, rule, message):
    with pytest.raises(ConfigError, match=message) as err:
        load_study(with_seeds(study_file, rule), runs=study_file.parent / "runs")
    assert "\n" not in str(err.value)


@pytest.mark.parametrize(
    ("settled_at", "expected"), [(2, [2]), (3, [2, 3]), (9, [2, 3, 4])], ids=["first", "second", "never"]
)
def test_seeds_are_added_until_every_pair_is_settled_or_none_are_left(study_file, monkeypatch, settled_at, expected):
    trained = []
    monkeypatch.chdir(study_file.parent)
    monkeypatch.setattr(run_module, "train_all", lambda study, **_: trained.append(study.looks.so_far[-1]))
    is_better = {True: Comparison("rcca", "fcn", 3, 3, 0.1, p=0.001, p_holm=0.001), False: OPEN}
    monkeypatch.setattr(
        run_module,
        "score_runs",
        lambda study: SimpleNamespace(compare=lambda: [is_better[study.looks.so_far[-1] >= settled_at]]),
    )
    monkeypatch.setattr(run_module, "collect_results", lambda study: study)
    monkeypatch.setattr(run_module, "write_results", lambda results, json_file: None)
    assert compare(with_seeds(study_file, RULE)).looks.so_far[-1] == expected[-1]
    assert trained == expected


def test_an_unplanned_second_look_is_recorded_and_said(study_file):
    runs = study_file.parent / "runs"
    text = study_file.read_text()
    first = load_study(with_seeds(study_file, "[0, 1]"), runs=runs)
    first.folder.mkdir(parents=True)
    assert unplanned_looks(first, [OPEN]) == 0
    assert unplanned_looks(first, [OPEN]) == 0  # the same seeds again
    study_file.write_text(text)
    assert unplanned_looks(load_study(with_seeds(study_file, "[1, 0]"), runs=runs), [OPEN]) == 0
    study_file.write_text(text)
    second = load_study(with_seeds(study_file, "[0, 1, 2]"), runs=runs)
    assert unplanned_looks(second, [OPEN]) == 1
    study_file.write_text(text)
    planned = load_study(with_seeds(study_file, RULE), runs=runs, num_seeds=3)
    assert unplanned_looks(planned, [OPEN]) == 1  # that with two seeds; that with these three is this one
    assert unplanned_looks(load_study(study_file, runs=runs, num_seeds=4), [OPEN]) == 2
    (sentence,) = look_verdicts(None, 1)
    assert sentence.startswith("This study was judged once before, with other seeds.")
    assert look_verdicts(None, 0) == []
    (sentence,) = look_verdicts(Looks((3, 4), 10), 0)
    assert sentence.startswith("Stop rule: judged with 3 and 4 seeds per head, at most 10.")


def test_verdicts_without_p_values_are_no_look(study_file):
    study = load_study(study_file, runs=study_file.parent / "runs")
    study.folder.mkdir(parents=True)
    unplanned_looks(study, [Comparison("rcca", "fcn", 1, 1, 0.1, reason="one seed")])
    assert not (study.folder / "looks.json").exists()


@pytest.mark.parametrize("content", ["damaged", "[" * 7000, "5", '[{"seeds": {"fcn": [5]}, "plan": null}, {}]'])
def test_a_damaged_record_of_looks_is_not_forgotten(study_file, content):
    study = load_study(study_file, runs=study_file.parent / "runs")
    study.folder.mkdir(parents=True)
    (study.folder / "looks.json").write_text(content)
    with pytest.raises(DataError, match=r"looks\.json: the record of earlier verdicts cannot be read; restore it"):
        unplanned_looks(study, [OPEN])
    assert (study.folder / "looks.json").read_text() == content


def test_a_fallen_run_is_named_with_its_fall():
    assert fallen_verdict("rcca-s2", 0.049).startswith("rcca-s2 scored 4.9 points below the other seeds of its head")
