"""docs/extending.md is run as it stands: each Python block becomes its file, each YAML block a change of a recipe."""

import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

from segnl import testing
from segnl.core.config import merge, parse_yaml
from segnl.core.run_log import read_log
from segnl.evaluation.evaluate_run import evaluate_run
from segnl.runs.checkpoint import checkpoints_of, load_checkpoint
from segnl.runs.recipe import compose
from segnl.runs.run import open_run
from segnl.testing import check_dataset
from segnl.training.fit import fit

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
KINDS = ["Backbone", "Data set", "Loss", "Transform", "Optimiser", "Schedule", "Metric", "Logger"]


def block(section: str, language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.DOTALL)
    return str(text)


@pytest.fixture
def page_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the page's files, which is the working directory and on the Python path."""
    for kind in KINDS:
        (name,) = re.findall(r"`(mylab/\w+/\w+\.py)`", SECTIONS[kind])
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(block(kind, "python"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "mylab"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def write_lists(folder: Path, tiny: Path) -> Path:
    """Writes the layout of the page's data set with the images of `tiny`."""
    (folder / "frames").mkdir(parents=True)
    for split in ("train", "val"):
        images = sorted((tiny / "images" / split).iterdir())
        for image in images:
            (folder / "frames" / f"{split}_{image.name}").write_bytes(image.read_bytes())
            label = tiny / "labels" / split / image.name
            (folder / "frames" / f"{split}_{image.stem}_mask.png").write_bytes(label.read_bytes())
        (folder / f"{split}.txt").write_text("".join(f"{split}_{image.stem}\n" for image in images))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_pages_component_trains_from_outside_the_package(
    kind: str, page_files: Path, tiny_data: Path, tiny_config: Path
) -> None:
    write_lists(page_files / "frames_and_lists", tiny_data)
    mapping = merge(parse_yaml(tiny_config.read_text(), "tiny"), parse_yaml(block(kind, "yaml"), "page"))
    recipe = compose(merge(mapping, {"train": {"max_steps": 3}}), file="page")
    fit(recipe, page_files / "run")
    checkpoint = load_checkpoint(checkpoints_of(page_files / "run")[0])
    assert checkpoint.step == 3
    assert all(tensor.isfinite().all() for tensor in checkpoint.model.values())
    assert checkpoint.recipe == recipe.to_dict()


def test_the_pages_data_set_keeps_its_contract(page_files: Path, tiny_data: Path) -> None:
    root = write_lists(page_files / "frames_and_lists", tiny_data)
    check_dataset("mylab.datasets.lists", root, "val", ignore_ids=[9])


def test_the_pages_schedule_halves_the_rate(page_files: Path, tiny_config: Path) -> None:
    mapping = merge(parse_yaml(tiny_config.read_text(), "tiny"), parse_yaml(block("Schedule", "yaml"), "page"))
    schedule = compose(mapping, file="page").schedule
    rates = [schedule.learning_rate(step, max_steps=7, lr=0.8) for step in range(7)]
    assert rates == pytest.approx([0.4, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2])


def test_the_pages_metric_stands_beside_miou(page_files: Path, tiny_config: Path) -> None:
    mapping = merge(parse_yaml(tiny_config.read_text(), "tiny"), parse_yaml(block("Metric", "yaml"), "page"))
    mapping = merge(mapping, {"train": {"max_steps": 2, "eval_every": 2}})
    fit(compose(mapping, file="page"), page_files / "run")
    (line,) = [line for line in read_log(page_files / "run" / "log.jsonl") if line.get("event") == "eval"]
    metrics = evaluate_run(open_run(page_files / "run")).metrics
    assert metrics["metrics"] == line["metrics"]
    iou = [value for value in metrics["per_class"].values() if value is not None]
    assert metrics["metrics"]["mylab.metrics.worst"] == pytest.approx(sum(sorted(iou)[:2]) / 2)
    f1 = [value for value in metrics["per_class_f1"].values() if value is not None]
    assert metrics["metrics"]["mean_f1"] == pytest.approx(sum(f1) / len(f1))


def test_the_pages_logger_writes_losses_and_scores(page_files: Path, tiny_config: Path) -> None:
    mapping = merge(parse_yaml(tiny_config.read_text(), "tiny"), parse_yaml(block("Logger", "yaml"), "page"))
    fit(compose(merge(mapping, {"train": {"max_steps": 2, "eval_every": 2}}), file="page"), page_files / "run")
    lines = (page_files / "run" / "losses.csv").read_text()
    assert re.fullmatch(r"1,\d\.\d{4}\n2,\d\.\d{4}\n2,,0\.\d{4}\n", lines)


def test_the_pages_hook_prints_the_hardest_images(
    page_files: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping = merge(parse_yaml(tiny_config.read_text(), "tiny"), {"train": {"max_steps": 4}})
    (page_files / "recipe.yaml").write_text(yaml.safe_dump(mapping))
    exec(block("Hook", "python"), {})
    lines = re.findall(r"^step \d: loss (\d\.\d+), frame\d, frame\d$", capsys.readouterr().out, re.MULTILINE)
    assert len(lines) == 3
    assert lines == sorted(lines, reverse=True)


def test_the_pages_checks_pass(page_files: Path) -> None:
    names = [name for name in vars(testing) if name.startswith("check_")]
    namespace = {name: getattr(testing, name) for name in names}
    exec(block("Check your component", "python"), namespace)
    torch.manual_seed(0)
    namespace["test_my_components"]()
