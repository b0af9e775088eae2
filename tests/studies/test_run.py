import json
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnl.core.archives import sha256_of
from segnl.core.errors import ConfigError, DataError, StoppedError
from segnl.core.result_cache import read_record, write_record
from segnl.core.run_log import read_log
from segnl.studies import run as run_module
from segnl.studies.run import compare, is_finished, train_all
from segnl.studies.study import load_study
from segnl.studies.table import terminal_text
from segnl.training import fit as fit_module
from segnl.training.fit import fit


def _metrics(finished):
    return json.loads((finished / "checkpoints/tiny/rcca-s0/eval/val-whole/metrics.json").read_text())


def test_a_study_ends_in_table_numbers_and_page(finished):
    folder = finished / "checkpoints" / "tiny"
    mapping = json.loads((finished / "out.json").read_text())
    assert mapping == {"written_by": "segnl compare", **json.loads((folder / "compare.json").read_text())}
    assert list(mapping["heads"]) == ["fcn", "rcca"]
    keys = {"miou_mean", "miou_sd", "runs", "params", "gflops", "train_images_per_s", "latency_ms", "peak_mib"}
    assert keys <= set(mapping["heads"]["rcca"])
    measured = [mapping["heads"]["rcca"][key] for key in ("boundary_iou", "latency_ms", "peak_mib")]
    assert all(value is not None and value > 0 for value in measured)
    assert set(mapping["control"]["batches"]) == {"fcn-s0", "rcca-s0"}
    assert len(set(mapping["control"]["batches"].values())) == 1
    assert len(set(mapping["control"]["batches_seen"].values())) == 1
    assert None not in mapping["control"]["batches_seen"].values()
    init = mapping["control"]["init"]
    assert init["fcn-s0"]["backbone"] == init["rcca-s0"]["backbone"]
    assert mapping["complete"] is True
    assert (folder / "table.md").read_text().startswith("**One seed per head: the scores hold for these networks")
    assert (folder / "table.csv").read_text().startswith("head,miou_mean,")
    (pair,) = mapping["pairs"]
    assert {"a", "b", "difference", "low", "high", "p_holm", "verdict"} <= set(pair)
    assert pair["difference"] == pytest.approx(
        mapping["heads"]["rcca"]["miou_mean"] - mapping["heads"]["fcn"]["miou_mean"]
    )
    assert pair["low"] is None
    assert "one seed: holds for these networks and says nothing about the heads" in pair["verdict"]
    assert set(pair["per_class"]) == set(_metrics(finished)["per_class"])
    assert (folder / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert "A note for the page." in (folder / "report.html").read_text()


@pytest.mark.parametrize("name", ["table.md", "compare.json", "report.html", "study.json"])
def test_what_no_study_wrote_is_not_replaced(study_file, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "checkpoints" / "tiny" / name
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    with pytest.raises(ConfigError, match=f"{name}: .*not written by segnl compare; move it aside"):
        compare(study_file)
    assert file.read_text() == "precious"
    file.unlink()
    if name != "study.json":
        (file.parent / "study.json").write_text(json.dumps({"file": str(study_file), "sha256": ""}))
        file.mkdir()
        with pytest.raises(ConfigError, match=f"{name}: exists and was not written by segnl compare"):
            compare(study_file)
        file.rmdir()
        file.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ConfigError, match=f"{name}: exists and was not written by segnl compare"):
            compare(study_file)


def test_the_study_s_score_is_the_one_that_the_run_s_metrics_hold(finished):
    mapping = json.loads((finished / "out.json").read_text())
    metrics = _metrics(finished)
    assert mapping["heads"]["rcca"]["miou_mean"] == metrics["miou"]
    assert mapping["heads"]["rcca"]["boundary_iou"] == metrics["boundary_iou"]
    assert mapping["heads"]["rcca"]["ambiguous_acc"] == metrics["ambiguous"]["mean"]


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """The finished study in a folder of its own, which is the working folder."""
    shutil.copytree(finished, tmp_path / "copy")
    file = tmp_path / "copy" / "tiny.yaml"
    note = {"file": str(file), "sha256": sha256_of(file)}  # the original's names the original
    (tmp_path / "copy" / "checkpoints" / "tiny" / "study.json").write_text(json.dumps(note))
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def test_a_second_call_trains_and_scores_nothing_and_gives_the_same_numbers(copied, monkeypatch):
    before = json.loads((copied / "out.json").read_text())

    def fail(*_arguments, **_named):
        raise AssertionError("trained or scored again")

    monkeypatch.setattr(run_module, "fit", fail)
    monkeypatch.setattr("segnl.evaluation.evaluate_run.evaluate", fail)
    compare(copied / "tiny.yaml", copied / "again.json")
    assert json.loads((copied / "again.json").read_text()) == before


def test_a_run_that_has_lost_its_log_has_no_curve_and_everything_else(copied):
    (copied / "checkpoints/tiny/rcca-s0/log.jsonl").unlink()
    (copied / "checkpoints/tiny/report.html").unlink()
    before = json.loads((copied / "out.json").read_text())
    compare(copied / "tiny.yaml", copied / "again.json")
    assert json.loads((copied / "again.json").read_text())["pairs"] == before["pairs"]
    assert (copied / "checkpoints/tiny/report.html").exists()


def _turn(path):
    Image.fromarray(np.asarray(Image.open(path))[:, ::-1]).save(path)


@pytest.mark.parametrize(
    ("change", "varies", "says"),
    [
        (lambda m: None, "model.head", None),
        (lambda m: _turn(m / "images/val/frame1.png"), "model.head", "other images under the same names"),
        (lambda m: _turn(m / "images/val/frame1.png"), "data", None),
        (lambda m: _turn(m / "labels/val/frame1.png"), "data", "other labels, such as that of 'frame1'"),
        (
            lambda m: [(m / kind / "val/frame1.png").unlink() for kind in ("images", "labels")],
            "data",
            "other images, such as 'frame1'",
        ),
    ],
)
def test_heads_that_would_be_scored_on_other_images_are_refused(
    tiny_config, tiny_data, tmp_path, monkeypatch, change, varies, says
):
    shutil.copytree(tiny_data, tmp_path / "other")
    change(tmp_path / "other")
    (tmp_path / "st.yaml").write_text(
        f"base: {tiny_config.name}\nvaries: [{varies}]\nheads: {{a: {{}}, b: {{data: {{root: {tmp_path / 'other'}}}}}}}"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "train_all", lambda *_, **__: (_ for _ in ()).throw(StoppedError("trains")))
    with pytest.raises(StoppedError if says is None else DataError, match=says or "trains"):
        compare(tmp_path / "st.yaml")


def test_the_numbers_are_not_written_over_the_study_s_own_files(study_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"report\.html: lies in the study's folder, whose compare\.json holds"):
        compare(study_file, tmp_path / "checkpoints" / study_file.stem / "report.html")


def test_a_run_is_not_written_through_a_link(study_file, tmp_path):
    (tmp_path / "runs/tiny").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs/tiny/rcca-s0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"rcca-s0: is a symbolic link to .*; remove it"):
        load_study(study_file, runs=tmp_path / "runs")


def test_a_stopped_study_ends_with_the_same_scores(copied):
    before = json.loads((copied / "out.json").read_text())
    run = copied / "checkpoints" / "tiny" / "rcca-s0"
    (run / "step-00000003.safetensors").unlink()  # as after a kill between step 2's checkpoint and the end
    assert not is_finished(load_study(copied / "tiny.yaml").runs[1])
    compare(copied / "tiny.yaml", copied / "again.json")
    after = json.loads((copied / "again.json").read_text())
    assert after["runs"]["rcca-s0"]["miou"] == before["runs"]["rcca-s0"]["miou"]
    assert after["control"] == before["control"]


def test_a_run_killed_in_its_last_validation_is_validated_by_the_next_compare(tiny_config, tmp_path):
    study_file = tmp_path / "study.yaml"
    study_file.write_text(f"base: {tiny_config}\nheads: {{fcn: {{}}}}\noverrides: {{train: {{eval_every: 3}}}}\n")
    study = load_study(study_file, runs=tmp_path)
    (run,) = study.runs
    fit(run.recipe, run.folder)
    assert is_finished(run)
    log = run.folder / "log.jsonl"
    lines = [line for line in read_log(log) if line.get("event") not in ("eval", "end") or line["step"] < 6]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert not is_finished(run)
    train_all(study)
    assert [line["step"] for line in read_log(log) if line.get("event") == "eval"] == [3, 6]
    assert is_finished(run)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("max_steps: 3", "max_steps: 2", "train.max_steps"),
        ("crop_hw: [64, 96]", "crop_hw: [64, 90]", "data.crop_hw"),
        ("lr: 1e-3", "lr: 1e-2", "optim.lr"),
    ],
)
def test_a_run_of_another_recipe_is_refused(copied, old, new, key):
    text = (copied / "base.yaml").read_text()
    assert old in text
    (copied / "base.yaml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=rf"fcn-s0: was trained with another recipe, which differs in {key}"):
        compare(copied / "tiny.yaml")


def test_a_run_of_another_seed_is_refused(copied):
    text = (copied / "tiny.yaml").read_text()
    (copied / "tiny.yaml").write_text(text.replace("seeds: [0]", "seeds: [1]"))
    folder = copied / "checkpoints" / "tiny"
    (folder / "rcca-s0").rename(folder / "rcca-s1")
    with pytest.raises(ConfigError, match=r"rcca-s1: was trained with another recipe, which differs in train\.seed"):
        compare(copied / "tiny.yaml")


@pytest.mark.parametrize(
    ("tampered", "reason"),
    [
        ("order", "rcca-s0 used different batches than its recipe and seed specify, at step 1"),
        ("crop", "rcca-s0 used different batches than its recipe and seed specify, at step 1"),
        ("weights", "rcca-s0 started from other weights than its recipe and seed specify (auxiliary, backbone"),
    ],
)
def test_a_training_that_deviated_from_its_recipe_is_refused(copied, monkeypatch, tampered, reason):
    run = copied / "checkpoints" / "tiny" / "rcca-s0"
    for path in run.iterdir():
        if path.is_file():  # RUN/cache stays: measuring the cost again would take seconds
            path.unlink()
    batches, transform, model = fit_module.train_batches, fit_module.TrainTransform, fit_module.build_model
    if tampered == "order":

        def other_batches(data, transform, plan, **settings):
            return batches(data, transform, replace(plan, seed=plan.seed + 1), **settings)

        monkeypatch.setattr(fit_module, "train_batches", other_batches)
    elif tampered == "crop":
        monkeypatch.setattr(fit_module, "TrainTransform", lambda cfg, rgb, seed: transform(cfg, rgb, seed + 1))
    else:
        other = {"train": load_study(copied / "tiny.yaml").runs[0].recipe.train.model_copy(update={"seed": 9})}
        monkeypatch.setattr(
            fit_module, "build_model", lambda recipe, *a, **kw: model(recipe.model_copy(update=other), *a, **kw)
        )
    results = compare(copied / "tiny.yaml", copied / "out.json")
    assert json.loads((copied / "out.json").read_text())["heads"]["rcca"]["runs"] == 0
    assert f"refused: {reason}" in terminal_text(results)
    assert reason in (copied / "checkpoints" / "tiny" / "table.md").read_text()


def test_a_second_seed_gives_intervals_that_do_not_depend_on_where_the_study_was_stopped(copied):
    text = (copied / "tiny.yaml").read_text()
    (copied / "tiny.yaml").write_text(text.replace("seeds: [0]", "seeds: [0, 1]"))
    text = terminal_text(compare(copied / "tiny.yaml", copied / "two.json"))
    (pair,) = json.loads((copied / "two.json").read_text())["pairs"]
    assert pair["low"] <= pair["difference"] <= pair["high"]
    assert 0 <= pair["p"] <= pair["p_holm"] <= 1
    assert text.index("2 seeds per head:") < text.index("Training images/s")  # verdicts first
    (copied / "checkpoints" / "tiny" / "rcca-s1" / "step-00000003.safetensors").unlink()
    compare(copied / "tiny.yaml", copied / "again.json")
    assert json.loads((copied / "again.json").read_text())["pairs"] == [pair]


def test_one_recipe_under_two_names_is_reported_as_such_everywhere(copied):
    text = (copied / "tiny.yaml").read_text().replace("seeds: [0]", "seeds: {fcn: [0], rcca: [1]}")
    (copied / "tiny.yaml").write_text(text.replace("head: {name: rcca,", "head: {name: fcn,"))
    shutil.rmtree(copied / "checkpoints" / "tiny" / "rcca-s0")
    results = compare(copied / "tiny.yaml", copied / "out.json")
    words = "fcn and rcca are one recipe under 2 names: every difference between them is chance"
    folder = copied / "checkpoints" / "tiny"
    found = json.loads((copied / "out.json").read_text())
    assert found["seeds"] == {"fcn": [0], "rcca": [1]}
    assert found["control"]["refused"] == {}
    page = (folder / "report.html").read_text()
    texts = [terminal_text(results), (folder / "table.md").read_text(), "\n".join(found["verdicts"]), page]
    assert [words in text for text in texts] == [True] * 4
    assert "The heads have no seed in common" in page
    assert "SHA-256 of the first batches" not in page
    assert "fcn: 0; rcca: 1" in page
    assert "one recipe under several names" in page


def test_a_run_with_other_hashes_does_not_count(copied):
    file = next((copied / "checkpoints" / "tiny" / "rcca-s0" / "cache").glob("control-*.json"))
    record = read_record(file)
    write_record(file, replace(record, value=record.value | {"batches": "tampered"}))
    results = compare(copied / "tiny.yaml", copied / "out.json")
    found = json.loads((copied / "out.json").read_text())
    assert found["heads"]["rcca"]["runs"] == 0
    assert found["heads"]["rcca"]["miou_mean"] is None
    assert "used different batches than fcn-s0" in found["control"]["refused"]["rcca-s0"]
    assert "refused: rcca-s0 used different batches" in terminal_text(results)


def test_a_signal_stops_the_study_with_its_exit_code(study_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = []

    def stop(recipe, folder):
        started.append(folder.name)
        raise StoppedError("stopped", 143)

    monkeypatch.setattr(run_module, "fit", stop)
    with pytest.raises(StoppedError) as err:
        compare(study_file)
    assert err.value.exit_code == 143
    assert started == ["fcn-s0"]
    assert not (tmp_path / "checkpoints" / "tiny" / "report.html").exists()


def test_a_study_of_lengths_gives_each_heads_own(study_file, tmp_path, monkeypatch):
    text = study_file.read_text()
    text = text.replace("rcca: {model: {head: {name: rcca, channels: 8}}}", "longer: {train: {max_steps: 4}}")
    study_file.write_text(text + "varies: [train.max_steps]\n")
    monkeypatch.chdir(tmp_path)
    results = compare(study_file)
    folder = tmp_path / "checkpoints" / "tiny"
    mapping = json.loads((folder / "compare.json").read_text())
    assert mapping["steps"] == {"fcn": 3, "longer": 4}
    assert {head: values["steps"] for head, values in mapping["heads"].items()} == mapping["steps"]
    page, table = (folder / "report.html").read_text(), (folder / "table.md").read_text()
    assert "fcn 3, longer 4 steps of 2 crops" in page
    assert "except for train.max_steps and the seed: data, optimiser" in page
    assert "| Steps |" in table
    assert "Steps" in terminal_text(results)
    assert results.refused == {}


def test_a_study_of_the_same_name_from_another_file_is_refused(copied):
    (copied / "other").mkdir()
    for name in ("base.yaml", "tiny.yaml"):
        shutil.copy(copied / name, copied / "other" / name)
    compare(copied / "other" / "tiny.yaml")  # the same study, copied
    compare(copied / "tiny.yaml")
    with (copied / "other" / "tiny.yaml").open("a") as file:
        file.write("gallery: 3\n")
    with pytest.raises(
        ConfigError, match=r"holds the study of .*tiny\.yaml, another file of the same name; rename one"
    ):
        compare(copied / "other" / "tiny.yaml")
    (copied / "tiny.yaml").unlink()  # moved, not another one
    compare(copied / "other" / "tiny.yaml")


def test_a_study_does_not_move_into_the_folder_of_a_run(study_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "tiny").mkdir(parents=True)
    (tmp_path / "checkpoints" / "tiny" / "recipe.yaml").touch()
    with pytest.raises(ConfigError, match="is the folder of a run; rename the study's file"):
        compare(study_file)


def test_the_documented_array_job_covers_every_run_and_the_plain_command_reports(study_file, tmp_path, monkeypatch):
    """The script in docs/clusters.md, with stand-ins for SLURM's programs."""
    page = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()
    script = textwrap.dedent(page.partition("`study.sbatch`:\n")[2].partition("and submit it")[0]).strip()
    (tmp_path / "study.sbatch").write_text(script)
    python = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])
    programs = {"srun": 'exec "$@"', "segnl": f'PYTHONPATH="{python}" exec "{sys.executable}" -m segnl "$@"'}
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    for number, code in ((1, 0), (2, 0), (3, 2)):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(number))
        done = subprocess.run(
            ["sh", "study.sbatch", study_file.name], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
    assert "--only: 3; expected 1 to 2 (the runs of tiny.yaml)" in done.stderr
    monkeypatch.chdir(tmp_path)
    study = load_study(study_file)
    assert all(is_finished(run) for run in study.runs)
    assert not (study.folder / "compare.json").exists()
    compare(study_file)
    assert (study.folder / "compare.json").exists()


def test_a_training_label_changed_after_the_study_is_said_everywhere(copied, streets):
    label = sorted((streets / "gtFine" / "train").rglob("*labelIds.png"))[-1]
    whole = label.read_bytes()
    ids = np.array(Image.open(label))
    ids[0, 0] = 7 if ids[0, 0] != 7 else 8
    try:
        Image.fromarray(ids).save(label)
        compare(copied / "tiny.yaml", copied / "again.json")
    finally:
        label.write_bytes(whole)
    again = json.loads((copied / "again.json").read_text())
    assert again["with_changed_data"] == ["fcn-s0", "rcca-s0"]
    sentence = "Training images, labels or classes have changed since all 2 runs trained on them."
    assert any(sentence in verdict for verdict in again["verdicts"])
    for name in ("table.md", "report.html"):
        assert sentence in (copied / "checkpoints" / "tiny" / name).read_text()
    compare(copied / "tiny.yaml", copied / "again.json")
    assert json.loads((copied / "again.json").read_text())["with_changed_data"] == []
