import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from segnl.core.errors import ConfigError, SegnlError
from segnl.runs.checkpoint import checkpoints_of, open_checkpoint
from segnl.studies.jobs import OUTPUT, JobPool, failure_reason, last_step, slots, start
from segnl.studies.run import train_all
from segnl.studies.study import load_study

ENDLESS = ("max_steps: 3, batch_size: 2, save_every: 2", "max_steps: 100000, batch_size: 2, save_every: 100000")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_slots_use_the_gpus_in_turn_and_divide_the_threads():
    assert slots(3, ["0", "2"], 8) == [
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0"},
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "2"},
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0"},
    ]
    assert slots(4, [], 2) == 4 * [{"OMP_NUM_THREADS": "1"}]


def test_parallel_trainings_give_the_same_as_sequential_ones(study_file, tmp_path, one_thread, capsys, caplog):
    alone, at_once = (load_study(study_file, runs=tmp_path / name) for name in ("alone", "at_once"))
    train_all(alone)
    train_all(at_once, num_jobs=2)
    for ours, theirs in zip(alone.runs, at_once.runs, strict=True):
        first, second = open_checkpoint(ours.folder), open_checkpoint(theirs.folder)
        assert first.step == second.step == 3
        assert first.model.keys() == second.model.keys()
        assert all(torch.equal(first.model[name], second.model[name]) for name in first.model)
        first, second = (next(run.cache.folder.glob("control-*.json")) for run in (ours, theirs))
        assert first.read_text() == second.read_text()
    written = capsys.readouterr().err
    assert "study tiny: rcca-s0 is trained" in written
    assert "6/6 steps" in written
    caplog.set_level("INFO", logger="segnl")
    train_all(at_once, num_jobs=2)
    assert "2 runs, 2 already trained" in caplog.text


def test_a_failed_training_is_one_line_and_the_others_finish(study_file, tmp_path, capsys):
    text = study_file.read_text().replace("fcn, channels: 8}}}", "fcn, channels: 8}}, optim: {lr: 1e30}}")
    study_file.write_text(text + "varies: [model.head, optim.lr]\n")
    study = load_study(study_file, runs=tmp_path / "runs")
    with pytest.raises(SegnlError, match=r"1 of 2 runs failed \(fcn-s0\); the others are trained") as err:
        train_all(study, num_jobs=2)
    assert err.value.exit_code == 5
    assert open_checkpoint(study.runs[1].folder).step == 3
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "fcn-s0 failed" in line]
    assert "the loss is nan" in line


@pytest.mark.parametrize(("code", "told"), [(5, 5), (1, 1), (-9, 6)])  # -9: killed, most often out of memory
def test_a_study_ends_with_the_exit_code_of_the_first_training_that_failed(code, told):
    study = SimpleNamespace(name="tiny", failed={"fcn-s0": code}, num_runs=2)
    assert JobPool._failure(study).exit_code == told


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_ctrl_c_stops_all_trainings_with_a_checkpoint_each(study_file):
    base = study_file.parent / "base.yaml"
    base.write_text(base.read_text().replace(*ENDLESS))
    folder = study_file.parent / "checkpoints" / "tiny"
    command = [sys.executable, "-m", "segnl", "compare", "--config", str(study_file), "--jobs", "2"]
    path = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(command, cwd=study_file.parent, env=os.environ | {"PYTHONPATH": path})
    try:
        wait_for(lambda: all(last_step(folder / f"{head}-s0" / "log.jsonl") > 2 for head in ("fcn", "rcca")))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
    finally:
        process.kill()
    assert all(checkpoints_of(folder / f"{head}-s0") for head in ("fcn", "rcca"))


def test_a_training_whose_parent_was_killed_saves_and_stops(study_file, tmp_path):
    base = study_file.parent / "base.yaml"
    base.write_text(base.read_text().replace(*ENDLESS))
    run = load_study(study_file, runs=tmp_path / "runs").runs[0]
    process = start(run, {"OMP_NUM_THREADS": "1"})
    try:
        wait_for(lambda: last_step(run.folder / "log.jsonl") > 2)
        process.stdin.close()  # as when the parent is gone
        assert process.wait(timeout=120) == 143
    finally:
        process.kill()
    assert checkpoints_of(run.folder)


def test_the_step_of_a_log_is_read_from_its_last_whole_line(tmp_path):
    log = tmp_path / "log.jsonl"
    assert last_step(log) == 0
    lines = [json.dumps({"step": step, "loss": 0.5, "filler": "x" * 90}) for step in range(1, 200)]
    log.write_text("\n".join(lines) + "\n" + '{"step": 2')
    assert last_step(log) == 199


@pytest.mark.parametrize("line", ['{"step": 1e999}', '{"step": Infinity}', "[" * 7000, "5", '{"step": true}'])
def test_a_line_that_no_training_wrote_is_passed_over(tmp_path, line):
    (tmp_path / "log.jsonl").write_text(f'{{"step": 3}}\n{line}\n')
    assert last_step(tmp_path / "log.jsonl") == 3


def test_a_file_of_somebody_else_is_not_replaced_by_the_output_of_a_training(study_file, tmp_path):
    run = load_study(study_file, runs=tmp_path / "runs").runs[0]
    run.folder.mkdir(parents=True)
    (run.folder / OUTPUT).write_text("images/a.png\n")
    with pytest.raises(ConfigError, match=r"train\.txt: exists and was not written by segnl compare; move it aside"):
        start(run, {})
    assert (run.folder / OUTPUT).read_text() == "images/a.png\n"
    assert failure_reason(tmp_path / OUTPUT, 3) == f"{tmp_path / OUTPUT}: cannot be read (No such file or directory)"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_the_output_of_a_training_goes_to_a_file_alone(study_file, tmp_path, kind):
    run, other = load_study(study_file, runs=tmp_path / "runs").runs[0], tmp_path / "precious"
    other.write_text("precious")
    run.folder.mkdir(parents=True)
    make = {"link": lambda path: path.symlink_to(other), "pipe": os.mkfifo, "folder": os.mkdir}[kind]
    make(run.folder / OUTPUT)
    with pytest.raises(ConfigError, match=rf"{OUTPUT}: is a .*where segnl writes a file; move it aside"):
        start(run, {})
    assert other.read_text() == "precious"


def test_the_failure_reason_is_the_training_s_own_error(tmp_path):
    (tmp_path / OUTPUT).write_text("norm: batch\nsegnl: error: data: no such folder\n")
    assert failure_reason(tmp_path / OUTPUT, 3) == "data: no such folder"
    assert "signal 9, perhaps out of memory" in failure_reason(tmp_path / OUTPUT, -9)
    (tmp_path / OUTPUT).write_text("")
    assert failure_reason(tmp_path / OUTPUT, 1) == "exit 1, no message"
