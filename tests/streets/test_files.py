"""The tree of files: Cityscapes' layout, gone on with, never mixed, accepted by the official evaluator."""

import copy
import importlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import DataError
from segnl.streets.files import CITIES, MANIFEST, generate, image_files
from segnl.streets.scene import render_scene

HW = (64, 128)


def digest(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_the_layout_is_that_of_cityscapes(tmp_path: Path):
    assert generate(tmp_path, num_train=3, num_val=2, hw=HW) == 5
    files = digest(tmp_path)
    assert len(files) == 5 * 5
    assert "leftImg8bit/train/ahornau/ahornau_000000_000019_leftImg8bit.png" in files
    for kind in ("labelIds", "instanceIds", "color", "ambiguous"):
        assert f"gtFine/val/rosenfurt/rosenfurt_000001_000019_gtFine_{kind}.png" in files
    assert not set(CITIES["train"]) & set(CITIES["val"])
    scene = render_scene(seed=0, split="val", index=1, hw=HW)
    paths = image_files(tmp_path, "val", 1)
    assert np.array_equal(np.asarray(Image.open(paths["image"])), scene.image)
    assert np.array_equal(np.asarray(Image.open(paths["instanceIds"])), scene.instance_ids)
    assert Image.open(paths["color"]).mode == "RGBA"


def test_what_is_there_stays_and_what_is_missing_or_broken_off_is_made_again(tmp_path: Path):
    generate(tmp_path, num_train=4, num_val=2, hw=HW)
    before = digest(tmp_path)
    image_files(tmp_path, "train", 1)["labelIds"].unlink()
    image_files(tmp_path, "val", 0)["image"].write_bytes(b"")
    for name in ("gtFine/val/quellbach/.x_gtFine_color.png.segnl-00000001", ".streets.json.segnl-00000001"):
        (tmp_path / name).write_bytes(b"left by a killed run")
    calls: list[tuple[int, int]] = []
    assert generate(tmp_path, num_train=4, num_val=2, hw=HW, progress=lambda *done: calls.append(done)) == 2
    assert digest(tmp_path) == before
    assert calls == [(done, 6) for done in range(1, 7)]
    assert not list(tmp_path.rglob(".*0001"))
    assert generate(tmp_path, num_train=4, num_val=2, hw=HW) == 0


def test_a_set_may_grow_and_its_old_images_stay_the_same(tmp_path: Path):
    generate(tmp_path, num_train=2, num_val=1, hw=HW)
    before = digest(tmp_path)
    assert generate(tmp_path, num_train=3, num_val=2, hw=HW) == 2
    assert before.items() <= digest(tmp_path).items()


def test_another_seed_size_or_fewer_images_are_refused(tmp_path: Path):
    generate(tmp_path, num_train=2, num_val=1, hw=HW)
    for other in ({"seed": 1}, {"hw": (66, 128)}, {"num_train": 1}):
        with pytest.raises(DataError, match="choose another --out"):
            generate(tmp_path, **{"num_train": 2, "num_val": 1, "hw": HW, **other})


@pytest.mark.parametrize("folder", ["leftImg8bit", "gtFine"])
def test_a_foreign_data_set_is_not_written_into(tmp_path: Path, folder: str):
    (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match="not streets"):
        generate(tmp_path, num_train=1, num_val=1, hw=HW)


@pytest.mark.parametrize("content", ["[1]", '{"train": "x"}', "[" * 100_000, '{"precious": 1}'])
def test_a_manifest_of_somebody_else_is_not_replaced(tmp_path: Path, content: str):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(DataError):
        generate(tmp_path, num_train=1, num_val=1, hw=HW)
    assert (tmp_path / MANIFEST).read_text() == content


@pytest.mark.parametrize("change", [{"num_val": 0}, {"hw": (32, 64)}, {"hw": (9000, 18000)}])
def test_a_size_or_count_out_of_range_is_refused_before_anything_is_written(tmp_path: Path, change):
    with pytest.raises(DataError):
        generate(tmp_path / "new", **{"num_train": 1, "num_val": 1, "hw": HW, **change})
    assert not (tmp_path / "new").exists()


def test_a_killed_run_is_gone_on_with_to_the_same_files(tmp_path: Path):
    def die(done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "a", num_train=4, num_val=2, hw=HW, progress=die)
    assert json.loads((tmp_path / "a" / MANIFEST).read_text())["complete"] is False
    assert generate(tmp_path / "a", num_train=4, num_val=2, hw=HW) == 3
    generate(tmp_path / "b", num_train=4, num_val=2, hw=HW)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_the_official_evaluator_gives_a_tree_full_marks_for_its_own_labels(tmp_path: Path):
    pytest.importorskip("cityscapesscripts", reason="the official evaluator is a development dependency")
    if not hasattr(np, "in1d"):
        np.in1d = np.isin  # removed in numpy 2.4; the official evaluator still calls it
    official = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    generate(tmp_path, num_train=1, num_val=10, hw=(128, 256))
    labels = sorted(str(path) for path in tmp_path.glob("gtFine/val/*/*_gtFine_labelIds.png"))
    assert len(labels) == 10
    args = copy.copy(official.args)
    args.quiet, args.JSONOutput = True, False
    result = official.evaluateImgLists(labels, labels, args)
    assert result["averageScoreClasses"] == 1.0
    assert result["averageScoreInstClasses"] == 1.0
    assert sum(score == 1.0 for score in result["classScores"].values()) == 19


def test_an_image_of_256x512_and_its_labels_take_little_time(tmp_path: Path):
    generate(tmp_path / "warm", num_train=1, num_val=1, hw=HW)
    best = float("inf")
    for start in range(3):
        began = time.process_time()
        generate(tmp_path / str(start), num_train=9, num_val=1)
        best = min(best, (time.process_time() - began) / 10)
    # The promise is 40 ms on an idle core. 36 to 55 ms were measured on busy ones; this catches a slide.
    assert best < 0.100
