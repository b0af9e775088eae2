"""`segnl probe` from end to end, at a size at which nothing is learned."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from segnl.cli.main import _parser, main
from segnl.core.config import merge
from segnl.core.errors import ConfigError
from segnl.models.segmenter import Segmenter
from segnl.runs.recipe import compose
from segnl.studies.probe import STUDY, ProbeRequest, probe
from segnl.studies.probe_results import (
    TargetCounts,
    control_recipe,
    reach_of,
    task_results,
    task_verdicts,
)
from segnl.studies.study import load_study

SMALL = ("data.crop_hw=[28,44]", "data.num_val=3", "train.max_steps=2", "train.batch_size=2")
HEAD = """
from segnl.models.heads.fcn import FCNHead


class Swirl(FCNHead):
    pass


HEAD = Swirl
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module mylab_swirl/head.py, in which the probe of fcn and of that head was run."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "mylab_swirl").mkdir()
    (folder / "mylab_swirl" / "head.py").write_text(HEAD)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        assert main(arguments(folder)) == 0
    return folder


def arguments(folder: Path) -> list[str]:
    heads = ["--heads", "fcn,mylab_swirl.head", "--tasks", "reach,counting", "--seeds", "1"]
    return ["probe", *heads, "--set", *SMALL, "--out", str(folder / "out")]


def test_it_writes_what_the_interface_promises(folder: Path) -> None:
    results = json.loads((folder / "out" / "probe.json").read_text())
    assert results["complete"] is True
    assert results["chance"] == pytest.approx(1 / 3)
    assert list(results["heads"]) == ["fcn", "head"]
    for head in results["heads"].values():
        assert {"near", "cross", "off"} <= set(head["accuracy"])
        assert np.array(head["map"], dtype=float).shape == (2 * 7 - 1, 2 * 11 - 1)
        assert head["seeds"] == 1
        assert head["params"] > 0
    counting = results["tasks"]["counting"]["heads"]["fcn"]
    assert counting["map"] is None
    assert counting["accuracy"]["off"] is None
    assert 0 <= counting["accuracy"]["all"] <= 1


def test_a_map_has_null_where_no_target_had_the_offset(folder: Path) -> None:
    cells = json.loads((folder / "out" / "probe.json").read_text())["heads"]["fcn"]["map"]
    assert cells[6][10] is None  # a target is not its own cue
    assert any(value is not None for row in cells for value in row)


def test_a_picture_a_head_and_one_page(folder: Path) -> None:
    out = folder / "out"
    assert all((out / f"reach-{head}.png").read_bytes().startswith(b"\x89PNG") for head in ("fcn", "head"))
    page = (out / "report.html").read_text()
    assert page.count("<figure>") == 2
    assert "this says nothing about the heads" in page


def test_a_second_run_trains_nothing_and_ends_with_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    before = (folder / "out" / "probe.json").read_bytes()
    logs = sorted((folder / "out").rglob("log.jsonl"))
    lines = [log.read_text() for log in logs]
    assert main(arguments(folder)) == 0
    assert (folder / "out" / "probe.json").read_bytes() == before
    assert [log.read_text() for log in logs] == lines


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"heads": ("rca",)}, "--heads: holds 'rca'; did you mean 'rcca'"),
        ({"tasks": ("reech",)}, "--tasks: holds 'reech'; did you mean 'reach'"),
        ({"overrides": ("data.num_target=3",)}, "data.num_target: unknown key"),
        ({"overrides": ("data={name: streets, root: ., crop_hw: [64, 128]}",)}, "the probe brings its own data"),
        (
            {"overrides": ("model.input={channels: 1, mean: [9], std: [9]}",)},
            "model.input.channels, data.frames: the probe's images are single RGB images",
        ),
    ],
)
def test_a_wrong_request_is_one_line(request_: dict[str, tuple[str, ...]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        probe(ProbeRequest(tmp_path / "out", **request_))  # type: ignore[arg-type]


def test_every_head_of_the_shipped_study_can_be_built(tmp_path: Path) -> None:
    study = load_study(STUDY, runs=tmp_path)
    assert set(study.heads) >= {"fcn", "aspp", "rcca_r1", "rcca", "non_local", "unet", "ocr"}
    for head in study.heads:
        Segmenter(study.runs_of(head)[0].recipe.model, 3)


def test_the_control_of_a_recipe_has_its_convolutions_and_no_context(tmp_path: Path) -> None:
    recipe = load_study(STUDY, runs=tmp_path).runs_of("rcca")[0].recipe
    wide = compose(
        recipe.to_dict() | {"model": recipe.to_dict()["model"] | {"head": {"name": "rcca", "channels": 8}}}, ""
    )
    assert control_recipe(wide).to_dict()["model"]["head"]["kernel"] == 3
    near, far = reach_of(control_recipe(recipe)), reach_of(control_recipe(wide))
    assert (near.rows, near.columns) == (2, 2)
    assert far.rows > near.rows


def test_a_backbone_that_sees_everything_is_said_to(tmp_path: Path) -> None:
    recipe = load_study(STUDY, runs=tmp_path).runs_of("fcn")[0].recipe
    deep = compose(merge(recipe.to_dict(), {"model": {"backbone": {"name": "resnet", "depth": 18}}}), "")
    reach = reach_of(deep)
    assert (reach.rows, reach.columns) == (12, 12)
    offsets = np.array([[[0, 3], [11, -11], [4, 0]]])
    counts = {head: {0: TargetCounts(np.array([[16, 0, 8]]), 16, offsets)} for head in ("fcn", "rcca")}
    (sentence,) = task_verdicts(task_results("reach", counts, reach, (12, 12)))
    assert sentence.startswith("The convolutions alone see the whole image")


def test_the_page_s_command_is_the_probe_s_own(tmp_path: Path) -> None:
    request = ProbeRequest(tmp_path / "a b", Path("-r.yaml"), ("fcn", "x.y"), 2, ("reach", "counting"), ("a={b: 1}",))
    words = shlex.split(request.command())
    args = _parser().parse_args(words[1:])
    assert ProbeRequest(args.out, args.config, args.heads, args.seeds, args.tasks, tuple(args.overrides)) == request
