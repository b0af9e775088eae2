import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segnl.convert.export import export
from segnl.core.distributed import ProcessGroup
from segnl.core.errors import CheckpointError, ConfigError, DataError, MachineError, NonFiniteError
from segnl.core.run_log import read_log
from segnl.data.digest import content_digest, data_record
from segnl.evaluation.evaluate import evaluate
from segnl.evaluation.predictor import load
from segnl.runs.build import build_data
from segnl.runs.checkpoint import checkpoints_of, load_checkpoint, save_checkpoint, step_of
from segnl.runs.recipe import load_recipe
from segnl.training.fit import fit
from segnl.training.hooks import Hook, stop_signals


def weights_hash(run: Path) -> str:
    digest = hashlib.sha256()
    checkpoint = load_checkpoint(checkpoints_of(run)[0])
    for tensors in (checkpoint.model, checkpoint.optim, checkpoint.ema):
        for name in sorted(tensors):
            digest.update(name.encode() + tensors[name].numpy().tobytes())
    return f"{checkpoint.step} {digest.hexdigest()}"


@pytest.mark.parametrize("extend", [None, "continued"])
def test_no_training_continues_from_a_recipe_without_steps(tiny_config, tmp_path, extend):
    run, recipe = tmp_path / "run", load_recipe(tiny_config, ["train.max_steps=1", "train.eval_every=null"])
    fit(recipe, run)
    checkpoint = load_checkpoint(checkpoints_of(run)[0])
    save_checkpoint(replace(checkpoint, recipe=checkpoint.recipe | {"train": {"max_steps": None}}))
    with pytest.raises(CheckpointError, match="holds weights alone, so no training can continue from it"):
        fit(recipe, run, extend=extend)


def test_a_folder_that_was_deleted_and_made_again_is_another_one(tiny_config, tmp_path):
    run = tmp_path / "run"

    class Deleter(Hook):
        def on_step(self, trainer, report, batch):
            if report.step == 2:
                shutil.rmtree(run)
                run.mkdir()

    with pytest.raises(MachineError, match="was moved or deleted during the training, so step 3 was not saved"):
        fit(load_recipe(tiny_config, ["train.save_every=1", "train.eval_every=null"]), run, hooks=[Deleter()])
    assert not [*run.rglob("*")]


@pytest.mark.parametrize("takes_its_place", [False, True])
def test_nothing_is_written_where_the_run_s_folder_was_before_it_was_moved(tiny_config, tmp_path, takes_its_place):
    run, aside = tmp_path / "run", tmp_path / "aside"

    class Mover(Hook):
        def on_step(self, trainer, report, batch):
            if report.step == 2:
                run.rename(aside)
                if takes_its_place:
                    run.mkdir()

    recipe = load_recipe(tiny_config, ["train.save_every=1", "train.max_steps=4", "train.eval_every=null"])
    with pytest.raises(MachineError, match="was moved or deleted during the training, so step 3 was not saved"):
        fit(recipe, run, hooks=[Mover()])
    assert run.exists() == takes_its_place
    assert not [*run.rglob("*")]
    assert step_of(checkpoints_of(aside)[0]) == 2
    shutil.rmtree(run, ignore_errors=True)
    aside.rename(run)
    fit(recipe, run)
    assert step_of(checkpoints_of(run)[0]) == 4


@pytest.mark.parametrize("replaces", [False, True])
def test_a_log_that_is_deleted_during_the_training_is_said_once_the_weights_are_saved(tiny_config, tmp_path, replaces):
    run = tmp_path / "run"

    class Deleter(Hook):
        def on_step(self, trainer, report, batch):
            if report.step == 2:
                (run / "log.jsonl").unlink()
                if replaces:
                    (run / "log.jsonl").write_text("precious")

    recipe = load_recipe(tiny_config, ["train.save_every=3", "train.max_steps=4", "train.eval_every=null"])
    with pytest.raises(MachineError, match=r"run/log.jsonl: was moved, deleted or replaced .* step 3 is saved"):
        fit(recipe, run, hooks=[Deleter()])
    assert step_of(checkpoints_of(run)[0]) == 3
    fit(recipe, run)
    assert step_of(checkpoints_of(run)[0]) == 4


def test_no_training_continues_from_exported_weights(tiny_config, tmp_path):
    run, recipe = tmp_path / "run", load_recipe(tiny_config)
    fit(recipe, run)
    newest = checkpoints_of(run)[0]
    export(newest, tmp_path / "weights.safetensors")
    newest.write_bytes((tmp_path / "weights.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="holds weights alone, so no training can continue from it"):
        fit(recipe, run)


def test_a_run_leaves_what_the_readme_promises(tiny_config, tmp_path):
    run = tmp_path / "run"
    fit(load_recipe(tiny_config), run)
    assert [path.name for path in checkpoints_of(run)] == ["step-00000006.safetensors", "step-00000004.safetensors"]
    assert load_recipe(run / "recipe.yaml").to_dict() == load_recipe(tiny_config).to_dict()
    steps = [line for line in read_log(run / "log.jsonl") if "event" not in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "lr", "data_s", "forward_s", "backward_s", "optim_s", "images_per_s"} <= steps[0].keys()
    checkpoint = load_checkpoint(checkpoints_of(run)[0])
    assert checkpoint.classes["names"] == ["road", "sky", "tree"]
    assert checkpoint.origin["versions"]["torch"]


@pytest.mark.parametrize(("norm", "chosen"), [("auto", "batch"), ("sync", "batch"), ("group", "group")])
def test_the_norm_is_chosen_and_logged_on_one_device(tiny_config, tmp_path, caplog, norm, chosen):
    caplog.set_level(logging.INFO, "segnl")
    recipe = load_recipe(tiny_config, [f"model.norm={norm}", "train.max_steps=2", "train.eval_every=2"])
    fit(recipe, tmp_path / "run")
    assert f"norm: {chosen}" in caplog.text
    assert read_log(tmp_path / "run" / "log.jsonl")[0]["norm"] == chosen


def test_a_batch_that_ranks_cannot_share_equally_is_refused_in_one_line(tiny_config, tmp_path):
    three = ProcessGroup(rank=0, world_size=3)
    with pytest.raises(ConfigError, match=r"train\.batch_size: 2 images per step cannot be shared equally by 3 ranks"):
        fit(load_recipe(tiny_config), tmp_path / "run", group=three)
    recipe = load_recipe(tiny_config, ["train.accumulate=2"])
    with pytest.raises(ConfigError, match="by 2 ranks in 2 micro-batches each"):
        fit(recipe, tmp_path / "run", group=ProcessGroup(rank=0, world_size=2))


def test_a_finished_run_is_not_trained_again(tiny_config, tmp_path, caplog):
    caplog.set_level(logging.INFO, "segnl")
    recipe = load_recipe(tiny_config)
    fit(recipe, tmp_path / "run")
    before = weights_hash(tmp_path / "run")
    fit(recipe, tmp_path / "run")
    assert "already trained" in caplog.text
    assert weights_hash(tmp_path / "run") == before


def start(config: Path, folder: Path, *overrides: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    root = str(Path(__file__).parents[2])
    words = [sys.executable, "-m", "segnl", "train", "--config", str(config), "--run", "run"]
    for override in overrides:
        words += ["--set", override]
    environment = os.environ | {"PYTHONPATH": root, "PYTHONUNBUFFERED": ""}  # buffered, as users run it
    return subprocess.Popen(
        words,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the tests themselves may run under nohup
    )


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        if any(line.get("step", 0) >= step for line in read_log(run / "log.jsonl")):
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step} in {run}")


COUNTING_LOGGER = """
from segnl.training.loggers.base import Logger


class Counting(Logger):
    def on_step(self, trainer, report, batch):
        with (self.run / "steps.txt").open("a") as file:
            print(report.step, report.loss, file=file)


LOGGER = Counting
"""


def test_killed_and_resumed_with_other_workers_equals_uninterrupted(tiny_config, tmp_path):
    """Weights, validations and the early end, with a logger of one's own."""
    options = ["train.max_steps=null", "train.epochs=20", "train.eval_every=3", "train.patience=4"]
    options += ["train.best_by=loss", "train.ema=0.9", "optim.lr=0.2", "train.loggers=[kill_test.counting]"]
    for name in ("whole", "killed"):
        (tmp_path / name / "kill_test").mkdir(parents=True)
        (tmp_path / name / "kill_test" / "counting.py").write_text(COUNTING_LOGGER)
    whole = start(tiny_config, tmp_path / "whole", *options)
    assert whole.wait() == 0, whole.stderr.read()
    expected, run = tmp_path / "whole" / "checkpoints" / "run", tmp_path / "killed" / "checkpoints" / "run"
    for kill_at, workers in ((5, 0), (12, 2)):
        process = start(tiny_config, tmp_path / "killed", *options, f"data.workers={workers}")
        wait_for_step(run, kill_at)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = start(tiny_config, tmp_path / "killed", *options, "data.workers=1")
    assert done.wait() == 0, done.stderr.read()
    assert 15 <= read_log(run / "log.jsonl")[-1]["step"] < 50  # patience ended it
    assert weights_hash(run) == weights_hash(expected)
    assert what_counts(run) == what_counts(expected)
    best, best_of_whole = (load_checkpoint(folder / "best.safetensors") for folder in (run, expected))
    assert best.step == best_of_whole.step
    assert set((run / "steps.txt").read_text().split("\n")) == set((expected / "steps.txt").read_text().split("\n"))


def test_training_from_an_archive_equals_training_from_its_folder(tiny_config, tiny_data, tmp_path):
    shutil.make_archive(str(tmp_path / "packed"), "zip", tiny_data)
    recipes = [
        load_recipe(tiny_config, [f"data.root={root}", "data.workers=2"])
        for root in (tiny_data, tmp_path / "packed.zip")
    ]
    for recipe, name in zip(recipes, ("plain", "packed"), strict=True):
        fit(recipe, tmp_path / name)
    assert weights_hash(tmp_path / "packed") == weights_hash(tmp_path / "plain")
    plain, packed = (build_data(recipe, "val") for recipe in recipes)
    assert content_digest(packed) == content_digest(plain)
    assert data_record(packed) == data_record(plain)


def what_counts(run: Path) -> list[dict[str, object]]:
    """The lines of log.jsonl without starts and times."""
    lines = [line for line in read_log(run / "log.jsonl") if line.get("event") != "start"]
    return [{key: value for key, value in line.items() if not key.endswith("_s")} for line in lines]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_stops_after_a_checkpoint_at_the_next_steps_edge(tiny_config, tmp_path, number, code):
    process = start(tiny_config, tmp_path, "train.max_steps=5000", "train.save_every=5000")
    run = tmp_path / "checkpoints" / "run"
    wait_for_step(run, 3)
    process.send_signal(number)
    while number == signal.SIGINT and process.poll() is None:  # impatient: pressed again and again
        time.sleep(0.02)
        process.send_signal(number)
    out, err = process.communicate(timeout=900)
    assert process.returncode == code
    assert "Traceback" not in err
    step = load_checkpoint(checkpoints_of(run)[0]).step
    assert f"stopped after step {step}" in out
    assert [line["step"] for line in read_log(run / "log.jsonl")][-1] == step


def test_a_hangup_that_nohup_has_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_training_whose_output_is_no_longer_read_continues(tiny_config, tmp_path):
    """As with `segnl train ... 2>&1 | head`."""
    process = start(tiny_config, tmp_path, "train.max_steps=6", "data.workers=0")
    process.stderr.close()
    process.stdout.close()
    assert process.wait(timeout=900) == 0
    assert load_checkpoint(checkpoints_of(tmp_path / "checkpoints" / "run")[0]).step == 6


def test_resume_with_ema_clipping_and_accumulation_equals_uninterrupted(tiny_config, tmp_path):
    run = tmp_path / "run"
    options = ["train.ema=0.9", "optim.clip_norm=0.5", "train.accumulate=2", "train.eval_every=3"]
    recipe = load_recipe(tiny_config, options)
    fit(recipe, run)
    before, scores = weights_hash(run), val_scores(run)
    checkpoints_of(run)[0].unlink()
    assert load_checkpoint(checkpoints_of(run)[0]).step == 4
    fit(recipe, run)
    assert weights_hash(run) == before
    assert val_scores(run) == scores


@pytest.mark.parametrize(
    ("head", "aux", "losses"),
    [
        ("{name: ema, channels: 8, num_bases: 5}", "{channels: 8}", {"main", "auxiliary"}),
        ("{name: da, channels: 8}", "{channels: 8}", {"main", "auxiliary", "position", "channel"}),
        ("{name: ocr, channels: 8, coarse: {channels: 8}}", "null", {"main", "coarse"}),
    ],
    ids=["ema", "da", "ocr"],
)
def test_heads_with_statistics_and_losses_of_their_own_resume_exactly(tiny_config, tmp_path, head, aux, losses):
    run = tmp_path / "run"
    recipe = load_recipe(tiny_config, [f"model.head={head}", f"model.aux={aux}"])
    fit(recipe, run)
    before = weights_hash(run)
    assert set(read_log(run / "log.jsonl")[-2]["losses"]) == losses
    checkpoints_of(run)[0].unlink()
    fit(recipe, run)
    assert weights_hash(run) == before


def val_scores(run: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["miou"]) for line in read_log(run / "log.jsonl") if line.get("event") == "eval"]


def test_the_best_by_validation_and_every_nth_are_kept(tiny_config, tmp_path):
    run = tmp_path / "run"
    options = ["train.max_steps=8", "train.eval_every=1", "train.save_every=8", "train.keep_every=3"]
    recipe = load_recipe(tiny_config, options)
    fit(recipe, run)
    scores = dict(val_scores(run))
    best = max(scores, key=scores.get)  # the first of equals
    assert load_checkpoint(run / "best.safetensors").step == best
    assert [step_of(path) for path in checkpoints_of(run)] == [8, 7, 6, 3]


def test_a_validation_that_a_kill_left_out_is_made_up_for(tiny_config, tmp_path):
    run, log = tmp_path / "run", tmp_path / "run" / "log.jsonl"
    recipe = load_recipe(tiny_config, ["train.eval_every=3"])
    fit(recipe, run)
    scores, best = val_scores(run), load_checkpoint(run / "best.safetensors").step
    kept = [line for line in read_log(log) if not (line.get("event") in ("eval", "end") and line["step"] == 6)]
    log.write_text("".join(json.dumps(line) + "\n" for line in kept))
    fit(recipe, run)
    assert val_scores(run) == scores
    assert load_checkpoint(run / "best.safetensors").step == best


def test_the_ema_is_scored_and_loaded(tiny_config, tmp_path):
    run = tmp_path / "run"
    fit(load_recipe(tiny_config, ["train.ema=0.9", "train.eval_every=6"]), run)
    checkpoint = load_checkpoint(checkpoints_of(run)[0])
    assert checkpoint.ema.keys() == checkpoint.model.keys()
    loaded = load(run)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], checkpoint.ema[name]) for name in state)
    assert not torch.equal(state["classifier.weight"], checkpoint.model["classifier.weight"])
    confusion = evaluate(loaded, build_data(loaded.recipe, "val")).confusion
    assert val_scores(run) == [(6, confusion.miou())]


def test_another_recipe_is_refused_naming_the_keys_and_fresh_moves_the_old_run_aside(tiny_config, tmp_path):
    run = tmp_path / "run"
    fit(load_recipe(tiny_config), run)
    other = load_recipe(tiny_config, ["optim.lr=0.01", "data.workers=1"])
    with pytest.raises(ConfigError, match=r"differs in optim\.lr; "):
        fit(other, run)
    fit(other, run, fresh=True)
    assert len(checkpoints_of(tmp_path / "run.old1")) == 2
    fit(other, tmp_path / "new", fresh=True)
    assert not (tmp_path / "new.old1").exists()  # there was nothing to move


def test_a_damaged_newest_checkpoint_is_passed_over_and_the_end_is_the_same(tiny_config, tmp_path):
    run = tmp_path / "run"
    fit(load_recipe(tiny_config), run)
    before = weights_hash(run)
    newest = checkpoints_of(run)[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="falling back"):
        fit(load_recipe(tiny_config), run)
    assert weights_hash(run) == before


def test_an_unwritable_place_is_refused_before_anything_is_built(tiny_config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr("segnl.training.fit.build_model", lambda *_: pytest.fail("built"))
    with pytest.raises(MachineError, match="file/run"):
        fit(load_recipe(tiny_config), tmp_path / "file" / "run")


def test_weights_that_are_no_longer_finite_are_not_saved_over_those_that_were(tiny_config, tmp_path):
    recipe = load_recipe(tiny_config, ["optim.lr=1e20", "optim.weight_decay=1e30", "train.save_every=1"])
    with pytest.raises(NonFiniteError, match=r"step 1: backbone\S+ is no longer finite, so nothing was saved"):
        fit(recipe, tmp_path / "run")
    assert checkpoints_of(tmp_path / "run") == []


def test_validation_is_logged(tiny_config, tmp_path):
    fit(load_recipe(tiny_config, ["train.eval_every=3"]), tmp_path / "run")
    evals = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line.get("event") == "eval"]
    assert [line["step"] for line in evals] == [3, 6]
    assert all(0 <= line["miou"] <= 1 for line in evals)


def test_a_truncated_image_stops_training_in_one_line_and_keeps_the_checkpoint(tiny_config, tiny_data, tmp_path):
    fit(load_recipe(tiny_config, ["train.max_steps=2"]), tmp_path / "run")
    for path in (tiny_data / "images" / "train").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"frame\d\.png.*index \d, epoch \d") as err:
        fit(load_recipe(tiny_config, ["train.max_steps=2"]), tmp_path / "other")
    assert "\n" not in str(err.value)
    assert load_checkpoint(checkpoints_of(tmp_path / "run")[0]).step == 2


def test_a_data_fault_does_not_cost_the_steps_before_it(tiny_config, tiny_data, tmp_path):
    """Images become unreadable while a training run is under way, long before its next checkpoint is due."""
    options = ["train.max_steps=5000", "train.save_every=5000"]
    process = start(tiny_config, tmp_path, *options)
    run = tmp_path / "checkpoints" / "run"
    wait_for_step(run, 3)
    for path in (tiny_data / "images" / "train").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    _, err = process.communicate(timeout=900)
    assert process.returncode == 3
    assert "images/train/frame" in err.splitlines()[-1]
    assert load_checkpoint(checkpoints_of(run)[0]).step == read_log(run / "log.jsonl")[-1]["step"] >= 3


def test_a_data_set_of_one_image_smaller_than_the_crop_trains(tiny_config, tiny_data, tmp_path):
    for kind in ("images", "labels"):
        for path in sorted((tiny_data / kind / "train").iterdir())[1:]:
            path.unlink()
    recipe = load_recipe(tiny_config, ["data.crop_hw=[97, 65]", "train.batch_size=3", "train.max_steps=2"])
    fit(recipe, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["event"] == "end"


def test_a_run_on_other_classes_is_refused_before_anything_is_learned(tiny_config, tiny_data, tmp_path):
    fit(load_recipe(tiny_config), tmp_path / "run")
    rows = (tiny_data / "classes.tsv").read_text().replace("road", "lane")
    (tiny_data / "classes.tsv").write_text(rows)
    with pytest.raises(CheckpointError, match="was trained on other classes"):
        fit(load_recipe(tiny_config), tmp_path / "run")


def test_a_wrong_data_folder_leaves_the_old_run_where_it_is(tiny_config, tmp_path):
    fit(load_recipe(tiny_config), tmp_path / "run")
    with pytest.raises(DataError):
        fit(load_recipe(tiny_config, ["data.root=/nowhere"]), tmp_path / "run", fresh=True)
    assert not (tmp_path / "run.old1").exists()
    assert checkpoints_of(tmp_path / "run")


def test_how_a_run_is_scored_may_change_without_training_it_again(tiny_config, tmp_path, caplog):
    caplog.set_level(logging.INFO, "segnl")
    fit(load_recipe(tiny_config), tmp_path / "run")
    fit(load_recipe(tiny_config, ["eval.flip=true"]), tmp_path / "run")
    assert "already trained" in caplog.text


STUCK_DATA = """
import time
from pathlib import Path

from segnl.data.datasets.folder import Folder


class StuckData(Folder):
    def read(self, index):
        Path("reading").touch()
        time.sleep(3600)


DATASET = StuckData
"""


@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_signal_is_heard_while_workers_wait_for_their_first_image(tiny_config, tmp_path, command):
    """As on a network disk that does not answer; the workers end too."""
    (tmp_path / "stuck").mkdir()
    (tmp_path / "stuck" / "data.py").write_text(STUCK_DATA)
    if command == "train":
        words = ["train", "--config", str(tiny_config), "--run", "run"]
    else:
        fit(load_recipe(tiny_config, ["train.max_steps=1"]), tmp_path / "checkpoints" / "run")
        words = ["eval", "--checkpoint", "checkpoints/run", "--trust-modules", "stuck.data"]
    data = f"{{name: stuck.data, root: {tmp_path / 'tiny'}, crop_hw: [33, 41], ignore_ids: [9], workers: 3}}"
    process = subprocess.Popen(
        [sys.executable, "-m", "segnl", *words, "--set", f"data={data}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "reading").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()  # Linux
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=60)[1]
    assert (process.returncode, "Traceback" in err) == (143, False), err
    assert time.monotonic() - began < 20  # a worker is asked every 5 s
    assert workers
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert not list(tmp_path.rglob("metrics.json"))
    assert not list(tmp_path.rglob(".*.segnl-*"))


def test_a_signal_while_the_command_starts_ends_it_with_its_exit_code(tiny_config, tmp_path):
    process = start(tiny_config, tmp_path, "train.max_steps=100000", "data.workers=4")
    while not (tmp_path / "checkpoints" / "run" / ".lock").exists():  # torch is loaded, the network is not built
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=60)[1]
    assert (process.returncode, err) == (143, "segnl: stopped by SIGTERM\n")
    assert not list(tmp_path.rglob(".*.segnl-*"))
