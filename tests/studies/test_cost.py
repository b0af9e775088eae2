import json

import pytest

from segnl.core.errors import MachineError
from segnl.core.result_cache import Record, read_record
from segnl.profiling.peak_memory import Profile
from segnl.studies import cost as cost_module
from segnl.studies.cost import costs_of, train_images_per_s
from segnl.studies.study import load_study


@pytest.fixture
def runs(tmp_path, study_file):
    study = load_study(study_file, runs=tmp_path / "runs")
    return {run.head: run for run in study.runs}


@pytest.fixture
def unmeasured(monkeypatch):
    """Counts alone: the process that measures would take seconds."""

    def fail(jobs):
        raise MachineError("no room")

    monkeypatch.setattr(cost_module, "profile", fail)


def test_a_cost_is_counted_once_and_again_when_the_network_changes(runs, unmeasured, monkeypatch):
    run = runs["rcca"]
    cost = costs_of({"rcca": run}, 19)["rcca"]
    assert cost["params"] > 0
    assert cost["gflops"] > 0
    assert costs_of({"rcca": run}, 18)["rcca"]["params"] == cost["params"] - 9  # 8 weights and a bias of the classifier
    monkeypatch.setattr(cost_module, "network_counts", lambda *_: pytest.fail("counted again"))
    assert costs_of({"rcca": run}, 19)["rcca"] == cost


def test_a_kept_cost_below_zero_is_counted_again(runs, unmeasured):
    cost = costs_of(runs, 19)["fcn"]
    cache, (path,) = runs["fcn"].cache, runs["fcn"].cache.folder.glob("cost-*.json")
    cache.store("cost", Record(read_record(path).key, [-1, cost["gflops"]]))
    assert costs_of(runs, 19)["fcn"] == cost


def test_attention_costs_more_than_convolutions_alone(runs, unmeasured):
    costs = costs_of(runs, 19)
    assert costs["rcca"]["gflops"] > costs["fcn"]["gflops"]


def test_time_and_memory_are_measured_once_for_all_heads_in_one_process(runs, monkeypatch):
    costs = costs_of(runs, 19)
    assert costs["rcca"]["peak_mib"] > costs["fcn"]["peak_mib"] > 0
    assert costs["fcn"]["latency_ms"] > 0
    monkeypatch.setattr(cost_module, "profile", lambda jobs: pytest.fail("measured again"))
    assert costs_of(runs, 19) == costs


def test_an_added_head_is_measured_alone_and_another_machine_measures_again(runs, monkeypatch):
    asked = []

    def measured(jobs):
        asked.append([job.recipe["model"]["head"]["name"] for job in jobs])
        return [Profile(1.0, 2.0, 3.0, 4, "cpu", 1, "") for _ in jobs]

    monkeypatch.setattr(cost_module, "profile", measured)
    assert costs_of({"fcn": runs["fcn"]}, 19)["fcn"]["latency_ms"] == 3.0
    costs_of(runs, 19)
    monkeypatch.setattr(cost_module, "machine", lambda: {"cpu": "another"})
    costs_of(runs, 19)
    assert asked == [["fcn"], ["rcca"], ["fcn", "rcca"]]


def test_a_failed_measurement_is_left_out_with_a_warning_and_tried_again(runs, unmeasured, caplog):
    cost = costs_of(runs, 19)["fcn"]
    assert cost["latency_ms"] is cost["peak_mib"] is None
    assert "latency and memory are left out: no room" in caplog.text
    costs_of(runs, 19)
    assert "no room" in caplog.text


def test_speed_is_the_median_without_the_first_steps_of_each_start(tmp_path):
    lines = [{"event": "start"}, *({"images_per_s": 1.0} for _ in range(5)), {"images_per_s": 8.0}]
    lines += [{"event": "start"}, *({"images_per_s": 2.0} for _ in range(5)), {"images_per_s": 10.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert train_images_per_s(tmp_path) == 9.0
    assert train_images_per_s(tmp_path / "nowhere") is None
