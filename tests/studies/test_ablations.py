import json
import shutil

import pytest

from segnl.evaluation.evaluate_run import evaluate_run
from segnl.models.ablation import Ablation
from segnl.runs.run import open_run
from segnl.studies.ablations import AblationResult, ablate, ablation_grid, ablations_dict
from segnl.studies.run import compare
from segnl.studies.study import load_study
from segnl.studies.table import aligned, terminal_text

OFF, SHUFFLED = Ablation("gamma0"), Ablation("shuffled")
RESULTS = [
    AblationResult("non_local", OFF, {"a": -0.02, "b": -0.04}, {"a": -0.1, "b": -0.3}),
    AblationResult("non_local", SHUFFLED, {"a": -0.01, "b": -0.01}, {}),
    AblationResult("rcca", OFF, {"a": 0.0004}, {}),
]


def test_a_cell_holds_the_mean_change_over_runs_and_its_spread():
    rows = ablation_grid(RESULTS).rows
    assert rows == [
        ["head", "gamma0", "shuffled"],
        ["non_local", "-3.00 ± 1.41", "-1.00 ± 0.00"],
        ["non_local, ambiguous pairs", "-20.00 ± 14.14", "–"],
        ["rcca", "+0.04", "–"],
    ]
    lines = aligned(rows).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_a_sentence_says_whether_attention_acts():
    assert ablation_grid(RESULTS).sentences == [
        "non_local: attention switched off -3.00, keys shuffled over positions -1.00",
        "rcca: hardly. None of the ablations changes its mIoU by 0.1 points.",
    ]


def test_the_json_holds_every_run_and_the_grid_every_meaning():
    mapping = ablations_dict(RESULTS)
    assert mapping["non_local"]["gamma0"]["miou_change"] == pytest.approx(-0.03)
    assert mapping["non_local"]["gamma0"]["miou_changes"] == {"a": -0.02, "b": -0.04}
    assert mapping["rcca"]["gamma0"]["ambiguous_change"] is None
    assert ablation_grid(RESULTS).meanings["gamma0"] == "attention switched off"
    assert ablation_grid([]) is None


def test_a_study_ablates_its_attention_heads_and_no_others(finished, tmp_path, monkeypatch, caplog):
    shutil.copytree(finished, tmp_path / "copy")
    note = {"file": str(tmp_path / "copy" / "tiny.yaml"), "sha256": ""}  # the original's names the original
    (tmp_path / "copy" / "checkpoints" / "tiny" / "study.json").write_text(json.dumps(note))
    monkeypatch.chdir(tmp_path / "copy")
    with (tmp_path / "copy" / "tiny.yaml").open("a") as file:
        file.write("ablations: [gamma0, window=1]\n")
    caplog.set_level("INFO", logger="segnl")
    results = compare(tmp_path / "copy" / "tiny.yaml", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())["ablations"]
    assert {head: list(names) for head, names in found.items()} == {"rcca": ["gamma0", "window=1"]}
    assert "Does the context matter?" in terminal_text(results)
    assert "left out" not in caplog.text
    assert "## Does the context matter?" in (tmp_path / "copy/checkpoints/tiny/table.md").read_text()
    assert json.loads((finished / "out.json").read_text())["ablations"] == {}

    study = load_study(tmp_path / "copy" / "tiny.yaml")
    evaluations = {run.name: evaluate_run(open_run(run.folder)) for run in study.runs}
    monkeypatch.setattr("segnl.evaluation.evaluate_run.evaluate", lambda *a, **kw: pytest.fail("scored again"))
    runs = {head: study.runs_of(head) for head in study.heads}
    (off, near) = ablate(study, runs, evaluations)
    assert off.changes["rcca-s0"] == found["rcca"]["gamma0"]["miou_changes"]["rcca-s0"]
    assert near.changes.keys() == {"rcca-s0"}
    assert ablate(study, runs | {"rcca": []}, evaluations) == []


def test_an_ablation_that_a_head_cannot_have_is_left_out_with_a_message(finished, tmp_path, caplog):
    (tmp_path / "base.yaml").write_text((finished / "base.yaml").read_text())
    (tmp_path / "pooled.yaml").write_text(
        "base: base.yaml\nheads:\n  pooled: {model: {head: {name: non_local, channels: 8, subsample: true}}}\n"
        "ablations: [window=1]\n"
    )
    study = load_study(tmp_path / "pooled.yaml", runs=tmp_path / "runs")
    caplog.set_level("INFO", logger="segnl")
    evaluations = evaluate_run(open_run(finished / "checkpoints/tiny/fcn-s0"))
    assert ablate(study, {"pooled": study.runs}, {"pooled-s0": evaluations}) == []
    assert "window=1 of pooled is left out: a window needs a map of keys that is not pooled" in caplog.text
