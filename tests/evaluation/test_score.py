import json
import shutil

import pytest

from segnl.core.errors import CheckpointError, ConfigError, DataError, MachineError
from segnl.evaluation.score import _print_results, predict_files, recipe_for_scoring, score
from segnl.metrics.accumulator import Accumulator, load_per_image
from segnl.runs.build import build_data
from segnl.runs.checkpoint import checkpoints_of, open_checkpoint
from segnl.runs.recipe import load_recipe
from segnl.training.fit import fit


@pytest.fixture
def run(tiny_config, tmp_path):
    fit(load_recipe(tiny_config), tmp_path / "run")
    return tmp_path / "run"


def scored(run, *overrides):
    return score(run, split="val", overrides=overrides, masks=None, json_file=None)


def test_the_protocol_may_be_another_than_the_recipes_and_is_written_down(run):
    metrics = scored(run, "eval.mode=slide", "eval.window_hw=[24, 32]", "eval.stride_hw=[16, 16]")
    assert metrics == json.loads((run / "eval" / "val-slide" / "metrics.json").read_text())
    assert metrics["eval"]["window_hw"] == [24, 32]
    assert (metrics["checkpoint"], metrics["step"]) == ("step-00000006.safetensors", 6)


def test_a_preset_is_a_protocol_with_a_folder_of_its_own(run):
    metrics = score(run, split="val", preset="cityscapes-ms", overrides=["eval.batch_size=2"])
    assert metrics == json.loads((run / "eval" / "val-cityscapes-ms" / "metrics.json").read_text())
    assert (metrics["preset"], metrics["eval"]["flip"]) == ("cityscapes-ms", True)
    assert metrics["eval"]["scales"] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    by_hand = scored(run, "eval.scales=[0.5, 0.75, 1.0, 1.25, 1.5, 1.75]", "eval.flip=true")
    assert by_hand["per_class"] == metrics["per_class"]
    changed = score(run, split="val", preset="cityscapes-ms", overrides=["eval.scales=[1.0]", "eval.flip=false"])
    assert changed["preset"] is None
    assert (run / "eval" / "val-whole" / "metrics.json").exists()
    with pytest.raises(ConfigError, match="--preset cityscapes: no such protocol"):
        score(run, split="val", preset="cityscapes")


def test_broken_attention_is_scored_beside_the_whole_network_s_and_its_masks_are_kept_apart(street_runs, tmp_path):
    shutil.copytree(street_runs[1], tmp_path / "rcca")
    whole = score(tmp_path / "rcca", split="val", masks=tmp_path / "masks")
    broken = score(tmp_path / "rcca", split="val", ablate="window=1")
    assert broken == json.loads((tmp_path / "rcca" / "eval" / "val-whole-window1" / "metrics.json").read_text())
    assert (whole["ablation"], broken["ablation"]) == (None, "window=1")
    assert whole == json.loads((tmp_path / "rcca" / "eval" / "val-whole" / "metrics.json").read_text())
    with pytest.raises(ConfigError, match="holds masks of another"):
        score(tmp_path / "rcca", split="val", masks=tmp_path / "masks", ablate="window=1")
    with pytest.raises(ConfigError, match="only dnl, non_local and rcca have ablations"):
        score(street_runs[0], split="val", ablate="gamma0")


def test_the_images_counts_lie_beside_the_metrics_and_add_up_to_them(run):
    metrics = scored(run)
    kept = load_per_image(run / "eval" / "val-whole" / "per_image.npz")
    assert kept.sample_ids == ["frame0", "frame1", "frame2"]
    assert kept.total().miou() == metrics["miou"]
    assert "strata" not in metrics


def test_strata_are_kept_and_drawn_when_asked_for(run):
    metrics = score(run, split="val", with_strata=True)
    strata = metrics["strata"]
    assert sum(size["pixels"] for size in strata["recall_by_component"]) == metrics["num_pixels"]
    assert len(strata["iou_by_row"]) == 10
    assert (run / "eval" / "val-whole" / "strata.png").read_bytes().startswith(b"\x89PNG")
    scored(run)
    assert not (run / "eval" / "val-whole" / "strata.png").exists()  # of an earlier evaluation


def test_a_data_set_without_a_server_has_no_submission(run, tmp_path):
    with pytest.raises(ConfigError, match="no server scores 'folder'; cityscapes and ade20k have one"):
        score(run, split="val", submission=tmp_path / "out.zip")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_half_scores_the_same_classes_but_for_its_rounding(run, precision):
    full, half = scored(run), scored(run, f"eval.precision={precision}")
    assert half["eval"]["precision"] == precision
    assert half["pixel_acc"] == pytest.approx(full["pixel_acc"], abs=0.1)  # pixels where two classes are that near


def test_the_network_may_not_be_another(run):
    with pytest.raises(CheckpointError, match=r"another model\.head\.recurrence"):
        scored(run, "model.head.recurrence=3")


def test_a_damaged_image_leaves_no_metrics(run, tiny_data):
    path = tiny_data / "images" / "val" / "frame2.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="frame2"):
        scored(run)
    assert not (run / "eval" / "val-whole" / "metrics.json").exists()


def test_a_failed_evaluation_leaves_none_of_the_results_before_it(run, tiny_data, tmp_path):
    score(run, split="val", json_file=tmp_path / "m.json", with_strata=True)
    path = tiny_data / "images" / "val" / "frame2.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="frame2"):
        score(run, split="val", json_file=tmp_path / "m.json")
    assert not (tmp_path / "m.json").exists()
    assert list((run / "eval" / "val-whole").iterdir()) == []


def test_an_unwritable_mask_folder_is_refused_before_anything_is_scored(run, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError, match="file/masks"):
        score(run, split="val", overrides=(), masks=tmp_path / "file" / "masks", json_file=None)
    assert not (run / "eval" / "val-whole" / "metrics.json").exists()


def test_missing_instances_are_named_before_anything_is_scored(street_runs, tmp_path):
    streets = tmp_path / "streets"
    shutil.copytree(street_runs[0].parent / "streets", streets)
    instances = max((streets / "gtFine" / "val").rglob("*_instanceIds.png"))
    instances.unlink()
    shutil.copytree(street_runs[0], tmp_path / "fcn")
    with pytest.raises(DataError, match=rf"{instances.name}: missing; the instance-weighted scores need it"):
        score(
            tmp_path / "fcn",
            split="val",
            overrides=[f"data.root={streets}"],
            masks=tmp_path / "masks",
            official=True,
        )
    assert not (tmp_path / "masks" / "ids").exists()


def test_two_images_of_one_name_would_overwrite_each_other_and_are_refused(run, tiny_data, tmp_path):
    images = [tiny_data / "images" / split / "frame0.png" for split in ("train", "val")]
    with pytest.raises(ConfigError, match="would overwrite"):
        predict_files(run, images, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "says"),
    [("nothing.png", "no such file"), ("labels", "holds no images .* folders in it are not looked into")],
)
def test_what_holds_no_image_is_named(run, tmp_path, name, says):
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match=says):
        predict_files(run, [tmp_path / name], tmp_path / "out")


def test_an_official_mean_over_nothing_is_a_dash(run, capsys):
    checkpoint = open_checkpoint(run)
    recipe = recipe_for_scoring(checkpoint, ())
    data, accumulator = build_data(recipe, "val"), Accumulator(3)
    accumulator.confusion.matrix[0, 0] = 5
    metrics = {"official": {"class_iou": 0.5, "class_iiou": None, "category_iou": 0.25, "category_iiou": None}}
    _print_results(accumulator, metrics, data, recipe)
    shown = "class_iou 0.5000, class_iiou -, category_iou 0.2500, category_iiou -"
    assert shown in capsys.readouterr().out


def test_the_best_checkpoint_s_scores_do_not_take_the_place_of_the_last_one_s(run):
    score(run, split="val")
    last = (run / "eval" / "val-whole" / "metrics.json").read_bytes()
    shutil.copy(checkpoints_of(run)[0], run / "best.safetensors")
    score(run / "best.safetensors", split="val")
    assert (run / "eval" / "val-whole" / "metrics.json").read_bytes() == last
    assert (run / "eval" / "val-whole" / "best" / "metrics.json").is_file()
