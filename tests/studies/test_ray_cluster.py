"""Runs of a study as Ray tasks. What a node does is tried in this process; one test starts a cluster of two nodes."""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from segnl.core.errors import ConfigError, MachineError
from segnl.runs.checkpoint import checkpoints_of
from segnl.runs.run import finished_run
from segnl.studies.jobs import OUTPUT, failure_reason, last_step
from segnl.studies.ray_cluster import DATA_ROOT, MAX_LOSSES, RayTraining, job_of, ray_launcher, train_on_node
from segnl.studies.run import compare, train_all
from segnl.studies.study import load_study
from tests.studies.conftest import write_study

FOUR_HEADS = "base: base.yaml\nheads:\n" + "".join(
    f"  {name}: {{model: {{head: {{name: {name}, channels: 8}}}}}}\n" for name in ("fcn", "aspp", "rcca", "non_local")
)
TIMINGS = re.compile(r"(train_images_per_s|latency_ms)$")


@pytest.fixture
def run(study_file, tmp_path):
    return load_study(study_file, runs=tmp_path / "checkpoints").runs[0]


@pytest.fixture
def marker(tmp_path):
    path = tmp_path / "marker"
    path.touch()
    return path


def test_a_node_that_sees_the_study_s_folder_trains_in_it(run, marker):
    first, *steps, last = train_on_node(job_of(run, marker, threads=1))
    assert first["is_shared"]
    assert last == {"code": 0, "files": {}}
    assert all(report.keys() == {"step"} for report in steps)
    assert finished_run(run.folder, run.recipe).checkpoint.step == 3


def test_a_node_that_does_not_see_it_sends_every_file_and_reads_its_own_data_root(run, tmp_path, monkeypatch):
    there = run.recipe.model_copy(update={"data": run.recipe.data.model_copy(update={"root": Path("only/here")})})
    monkeypatch.setenv(DATA_ROOT, str(run.recipe.data.root))
    job = job_of(dataclasses.replace(run, recipe=there), tmp_path / "no marker", threads=1)
    first, *_, last = train_on_node(job)
    assert not first["is_shared"]
    assert last["code"] == 0
    assert not run.folder.exists()
    assert {"log.jsonl", "recipe.yaml", OUTPUT} < last["files"].keys()
    assert list(last["files"])[-1].startswith("step-")  # with it the run counts as trained
    training = fake_training(run, marker=tmp_path / "no marker", reports=[first, last])
    assert training.poll() == 0
    assert finished_run(run.folder, there).checkpoint.step == 3
    assert "does not see this folder" in training.news()[0]


def test_a_cancelled_task_leaves_a_checkpoint_and_no_process(run, marker):
    endless = {"train": run.recipe.to_dict()["train"] | {"max_steps": 100_000, "save_every": 100_000}}
    job = job_of(run, marker, threads=1)
    reports = train_on_node(job | {"recipe": job["recipe"] | endless})
    assert "node" in next(reports)
    assert next(reports)["step"] > 0
    reports.close()
    assert checkpoints_of(run.folder)


def test_a_node_with_another_segnl_or_torch_is_refused(run, marker):
    job = job_of(run, marker, threads=1) | {"versions": "segnl of code 0, torch 1.0"}
    with pytest.raises(ConfigError, match=r"has segnl of code \w+, torch .* run by segnl of code 0, torch 1.0"):
        next(train_on_node(job))


class LostError(Exception):
    """Stands for the exceptions of Ray that mean a lost node."""


class CancelledError(Exception):
    """Stands for that of a cancelled task."""


def fake_training(run, marker, reports):
    """A training whose tasks report `reports` one after the other; an exception among them ends a task."""
    waiting = iter(reports)

    def get(report):
        if isinstance(report, Exception):
            raise report
        return report

    lost = ("NodeDiedError", "WorkerCrashedError", "ObjectLostError", "OutOfMemoryError")
    exceptions = SimpleNamespace(TaskCancelledError=CancelledError, **dict.fromkeys(lost, LostError))
    ray = SimpleNamespace(
        exceptions=exceptions,
        get=get,
        wait=lambda tasks, timeout: (tasks, []),
        remote=lambda **_: lambda function: SimpleNamespace(remote=lambda job: waiting),
    )
    return RayTraining(ray, run, marker, {"num_cpus": 1, "num_gpus": 0})


@pytest.mark.parametrize(
    ("is_shared", "how"), [(True, "from its last checkpoint, if it has one"), (False, "from the beginning")]
)
def test_a_run_of_a_lost_node_is_handed_over_again_and_says_from_where(run, marker, is_shared, how):
    start = {"node": "a", "is_shared": is_shared}
    training = fake_training(
        run, marker, [start, {"step": 2}, LostError(), start | {"node": "b"}, {"code": 0, "files": {}}]
    )
    assert training.poll() == 0
    starts, lost, again = training.news()
    assert starts.startswith("starts on node a")
    assert how in lost
    assert again.startswith("starts on node b")


def test_a_run_that_loses_every_node_fails_in_one_line(run, marker):
    training = fake_training(run, marker, [LostError() for _ in range(MAX_LOSSES + 1)])
    code = training.poll()
    assert code == 6
    assert "lost its node or its process 6 times" in failure_reason(run.folder / OUTPUT, code)


def test_without_ray_one_line_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"Ray is not installed; pip install 'segnl\[ray\]'"):
        ray_launcher(tmp_path, "ray", threads=1).__enter__()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", ""])
def test_an_address_without_a_cluster_is_one_line_at_once(tmp_path, monkeypatch, address):
    class NoRay:
        def init(self, address, **_):
            raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "ray", NoRay())
    with pytest.raises(MachineError, match=rf"--engine ray://{address}: no connection to a Ray cluster \(") as err:
        ray_launcher(tmp_path, f"ray://{address}", threads=1).__enter__()
    assert "\n" not in str(err.value)


def test_nothing_is_connected_for_a_study_that_is_trained(study_file, tmp_path, monkeypatch):
    monkeypatch.setattr("segnl.studies.run.is_finished", lambda run: True)
    train_all(load_study(study_file, runs=tmp_path / "runs"), engine="ray://nowhere:1")


def plain(value, path=""):
    """compare.json's values by path, without the timings."""
    if isinstance(value, dict):
        value = list(value.items())
    elif isinstance(value, list):
        value = list(enumerate(value))
    else:
        return {} if TIMINGS.search(path) else {path: value}
    return {key: leaf for name, inner in value for key, leaf in plain(inner, f"{path}.{name}").items()}


@pytest.fixture
def two_nodes(monkeypatch):
    """A cluster of two nodes with one CPU each, and its second node."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_gcs_server_port_wait_time_s", "300")  # this and the next are 30 s, too short under load
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "300")
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "300000")
    monkeypatch.setenv("RAY_health_check_timeout_ms", "60000")
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="the extra `ray` is not installed")
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_log_monitor": False, "no_monitor": True}
    head_node = node | {"include_dashboard": False}
    cluster = started(lambda: cluster_utils.Cluster(initialize_head=True, head_node_args=head_node))
    try:
        second = started(lambda: cluster.add_node(wait=False, **node))
        cluster.wait_for_nodes(timeout=300)
        yield cluster, second
    finally:
        cluster.shutdown()


def started(start):
    """Starts a node, up to six times: Ray gives a node's agents 15 s to start, and no setting changes that."""
    for _ in range(5):
        with contextlib.suppress(Exception):  # Ray raises no other kind here
            return start()
    return start()


def is_halfway(run_folder):
    """Tells whether a run of 30 steps has saved a checkpoint and has some steps left."""
    return bool(checkpoints_of(run_folder)) and last_step(run_folder / "log.jsonl") < 25


@pytest.mark.slow
def test_a_study_on_two_nodes_one_of_which_dies_equals_the_local_engine_s(tmp_path, streets, monkeypatch, request):
    study = write_study(tmp_path, streets, FOUR_HEADS + "seeds: [0, 1]\nattention_images: 0\ngallery: 0\n")
    base = tmp_path / "base.yaml"
    base.write_text(base.read_text().replace("max_steps: 3", "max_steps: 30"))
    path = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)  # of the nodes, too
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cluster, second = request.getfixturevalue("two_nodes")  # after the environment is set
    ours = tmp_path / "on_ray"
    ours.mkdir()
    command = [sys.executable, "-m", "segnl", "compare", "--config", str(study)]
    on_ray = [*command, "--engine", f"ray://{cluster.address}"]
    with (ours / "output.txt").open("w") as output:
        process = subprocess.Popen(on_ray, cwd=ours, stderr=output, stdout=output)
    runs = ours / "checkpoints" / "tiny"
    try:
        while sum(is_halfway(folder) for folder in runs.glob("*-s?")) < 2:  # on each node one, with a checkpoint
            assert process.poll() is None, (ours / "output.txt").read_text()
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)
        assert process.wait(timeout=500) == 0, (ours / "output.txt").read_text()
    finally:
        process.kill()
    said = (ours / "output.txt").read_text()
    lost = re.search(
        r"(\w+-s\d) was lost with its node or process \(.*\); resumes elsewhere from its last checkpoint", said
    )
    assert lost, said
    log = (runs / lost[1] / "log.jsonl").read_text().splitlines()
    starts = [line["step"] for line in map(json.loads, log) if line.get("event") == "start"]
    assert starts[0] == 0
    assert starts[-1] > 0  # it resumed from a checkpoint
    local = tmp_path / "local"
    local.mkdir()
    monkeypatch.chdir(local)
    compare(study)
    ray_json, local_json = (json.loads((f / "checkpoints/tiny/compare.json").read_bytes()) for f in (ours, local))
    assert plain(ray_json) == plain(local_json)
