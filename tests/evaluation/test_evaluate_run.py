import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from segnl.core.errors import CheckpointError, ConfigError, DataError, MachineError
from segnl.core.result_cache import Record, read_record, write_record
from segnl.evaluation import evaluate_run as module
from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run
from segnl.evaluation.predictor import Predictor
from segnl.evaluation.presets import find_preset
from segnl.metrics.accumulator import load_per_image
from segnl.metrics.strata import boundary_width
from segnl.models.ablation import Ablation
from segnl.models.segmenter import Segmenter
from segnl.runs.checkpoint import checkpoints_of, open_checkpoint
from segnl.runs.recipe import load_recipe
from segnl.runs.run import Run, open_run
from segnl.training.fit import fit

ROOT = Path(__file__).resolve().parents[2]

# Kills the evaluation at its third image, once the first mask is written.
KILLED = """
import os, signal, sys, time
from pathlib import Path
from segnl.evaluation.evaluate_run import evaluate_run
from segnl.evaluation.predictor import Predictor
from segnl.runs.run import open_run

plain, calls = Predictor.labels, []

def labels(self, image):
    calls.append(1)
    if len(calls) == 3:
        while not list(Path(sys.argv[1], "cache").rglob("frame0.png")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, image)

Predictor.labels = labels
evaluate_run(open_run(Path(sys.argv[1])))
"""


@pytest.fixture
def street_run(street_runs, tmp_path):
    # Another test may have evaluated it already.
    shutil.copytree(street_runs[1], tmp_path / "rcca", ignore=shutil.ignore_patterns("cache", "eval"))
    return tmp_path / "rcca"


@pytest.fixture
def run(tiny_config, tmp_path):
    fit(load_recipe(tiny_config), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def forwards(monkeypatch) -> list[int]:
    """One entry for each time that a network runs."""
    calls: list[int] = []
    plain = Segmenter.forward

    def counting(self, image, *more):
        calls.append(1)
        return plain(self, image, *more)

    monkeypatch.setattr(Segmenter, "forward", counting)
    return calls


def evaluated(folder, *overrides, settings=None, **request):
    return evaluate_run(open_run(folder, overrides, settings=settings), EvaluationRequest(**request))


def written_metrics(folder, name="val-whole"):
    return json.loads((folder / "eval" / name / "metrics.json").read_text())


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- the counts ----


def test_the_counts_are_those_of_the_masks_pixel_by_pixel(street_run):
    evaluation, data = evaluated(street_run), open_run(street_run).open_data("val")
    for i in range(len(data)):
        sample, mask = data.read(i), evaluation.mask(i, data.table)
        scored = sample.label != 255
        for k in range(data.table.num_classes):
            assert evaluation.target[i, k] == (sample.label == k).sum()
            assert evaluation.prediction[i, k] == ((mask == k) & scored).sum()
            assert evaluation.intersection[i, k] == ((mask == k) & (sample.label == k)).sum()
            assert evaluation.union[i, k] == (((mask == k) | (sample.label == k)) & scored).sum()
        share = ((mask != sample.label) & scored).sum() / scored.sum()
        assert evaluation.error_rate()[i] == pytest.approx(share)


def test_boundary_iou_is_that_of_each_class_s_own_mask(street_run):
    evaluation, data = evaluated(street_run), open_run(street_run).open_data("val")
    intersection, union = (np.zeros(data.table.num_classes) for _ in range(2))
    for i in range(len(data)):
        label, mask = data.read(i).label, evaluation.mask(i, data.table)
        mask = np.where(label == 255, 255, mask)
        square = np.ones((2 * boundary_width(label.shape) + 1,) * 2, np.uint8)
        for k in range(data.table.num_classes):
            inside = [
                is_k - cv2.erode(is_k, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
                for is_k in ((label == k).astype(np.uint8), (mask == k).astype(np.uint8))
            ]
            intersection[k] += (inside[0] & inside[1]).sum()
            union[k] += (inside[0] | inside[1]).sum()
    occurs = union > 0
    np.testing.assert_allclose(evaluation.boundary_iou()[occurs], intersection[occurs] / union[occurs])
    assert evaluation.metrics["boundary_iou"] == pytest.approx((intersection[occurs] / union[occurs]).mean())
    assert np.isnan(evaluation.boundary_iou()[~occurs]).all()


def test_pairs_are_counted_on_the_ambiguous_pixels(street_run):
    evaluation, data = evaluated(street_run), open_run(street_run).open_data("val")
    correct = total = 0
    for i in range(len(data)):
        is_first_pair = data.ambiguous_mask(i) == 1
        total += is_first_pair.sum()
        correct += (is_first_pair & (evaluation.mask(i, data.table) == data.read(i).label)).sum()
    assert evaluation.pairs[:, 0].sum(axis=0).tolist() == [correct, total]


def test_a_data_set_without_ambiguous_pairs_has_no_such_counts(run):
    evaluation = evaluated(run)
    assert evaluation.pairs is None
    assert "ambiguous" not in evaluation.metrics


def test_predicting_the_most_frequent_class_everywhere_is_scored_over_the_classes_of_the_labels(street_run):
    evaluation = evaluated(street_run)
    target = evaluation.target.sum(axis=0)
    k, miou = evaluation.most_frequent_class()
    assert target[k] == target.max()
    assert miou == pytest.approx(target.max() / target.sum() / (target > 0).sum())


# ---- what is written ----


def test_metrics_json_holds_the_scores_and_per_image_npz_adds_up_to_them(run):
    evaluation = evaluated(run)
    assert written_metrics(run) == evaluation.metrics
    assert np.nanmean(evaluation.iou()) == pytest.approx(evaluation.metrics["miou"])
    assert evaluation.metrics["complete"] is True
    assert (evaluation.metrics["checkpoint"], evaluation.metrics["step"]) == ("step-00000006.safetensors", 6)
    per_image = load_per_image(run / "eval" / "val-whole" / "per_image.npz")
    assert per_image.sample_ids == ["frame0", "frame1", "frame2"]
    assert per_image.total().miou() == evaluation.metrics["miou"]
    assert "strata" not in evaluation.metrics


def test_a_checkpoint_that_does_not_say_where_it_comes_from_is_scored(run):
    opened = open_run(run)
    evaluation = evaluate_run(replace(opened, checkpoint=replace(opened.checkpoint, origin={})))
    assert evaluation.metrics["git"] is None


def test_the_settings_may_be_others_than_the_recipes_and_are_written_down(run):
    metrics = evaluated(run, "eval.mode=slide", "eval.window_hw=[24, 32]", "eval.stride_hw=[16, 16]").metrics
    assert metrics == written_metrics(run, "val-slide")
    assert metrics["eval"]["window_hw"] == [24, 32]


def test_a_preset_has_a_folder_of_its_own_while_its_settings_are_unchanged(run):
    found = find_preset("cityscapes-ms")
    preset = {"preset": found, "settings": {"eval": found.settings}}
    metrics = evaluated(run, "eval.batch_size=2", **preset).metrics
    assert metrics == written_metrics(run, "val-cityscapes-ms")
    assert (metrics["preset"], metrics["eval"]["flip"]) == ("cityscapes-ms", True)
    assert metrics["eval"]["scales"] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    by_hand = evaluated(run, "eval.scales=[0.5, 0.75, 1.0, 1.25, 1.5, 1.75]", "eval.flip=true").metrics
    assert by_hand["per_class"] == metrics["per_class"]
    changed = evaluated(run, "eval.scales=[1.0]", "eval.flip=false", **preset).metrics
    assert changed["preset"] is None
    assert (run / "eval" / "val-whole" / "metrics.json").exists()


def test_strata_are_counted_on_request(run):
    strata = evaluated(run, with_strata=True).metrics["strata"]
    assert sum(size["pixels"] for size in strata["recall_by_component"]) == written_metrics(run)["num_pixels"]
    assert len(strata["iou_by_row"]) == 10


def test_an_ablation_has_a_folder_of_its_own_and_is_stored_too(street_run, monkeypatch, forwards):
    """gamma is hardly open after two steps; opened wide, shuffled keys must show."""
    plain = module.predictor_of

    def wide_open(run):
        predictor = plain(run)
        with torch.no_grad():
            next(parameter for name, parameter in predictor.model.named_parameters() if "gamma" in name).fill_(30.0)
        return predictor

    monkeypatch.setattr(module, "predictor_of", wide_open)
    whole, shuffled = (evaluated(street_run, ablation=ablation) for ablation in (None, Ablation("shuffled")))
    assert (whole.folder.name, shuffled.folder.name) == ("val-whole", "val-whole-shuffled")
    assert (whole.metrics["ablation"], shuffled.metrics["ablation"]) == (None, "shuffled")
    assert (whole.prediction != shuffled.prediction).any()
    forwards.clear()
    again = evaluated(street_run, ablation=Ablation("shuffled"))
    assert (again.prediction == shuffled.prediction).all()
    assert not forwards


def test_a_head_without_attention_has_no_ablation(street_runs):
    with pytest.raises(ConfigError, match="only dnl, non_local and rcca have ablations"):
        evaluated(street_runs[0], ablation=Ablation("gamma0"))


def test_the_best_checkpoint_s_scores_do_not_take_the_place_of_the_last_one_s(run):
    evaluated(run)
    last = (run / "eval" / "val-whole" / "metrics.json").read_bytes()
    shutil.copy(checkpoints_of(run)[0], run / "best.safetensors")
    evaluated(run / "best.safetensors")
    assert (run / "eval" / "val-whole" / "metrics.json").read_bytes() == last
    assert written_metrics(run, "val-whole/best")["checkpoint"] == "best.safetensors"


def test_files_of_weights_in_one_folder_have_results_of_their_own(run, tmp_path):
    for name in ("one", "other"):
        (tmp_path / "imported").mkdir(exist_ok=True)
        shutil.copy(checkpoints_of(run)[0], tmp_path / "imported" / f"{name}.safetensors")
        evaluated(tmp_path / "imported" / f"{name}.safetensors")
    for name in ("one", "other"):
        assert written_metrics(tmp_path / "imported", f"val-whole/{name}")["checkpoint"] == f"{name}.safetensors"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_half_scores_the_same_classes_but_for_its_rounding(run, precision):
    full, half = evaluated(run).metrics, evaluated(run, f"eval.precision={precision}").metrics
    assert half["eval"]["precision"] == precision
    assert half["pixel_acc"] == pytest.approx(full["pixel_acc"], abs=0.1)  # pixels where two classes are that near


# ---- when a stored result counts ----


def test_an_evaluation_is_computed_once(street_run, forwards):
    first = evaluated(street_run)
    assert forwards
    forwards.clear()
    again = evaluated(street_run, "eval.batch_size=1")  # changes how it is computed, and no number
    assert not forwards
    assert (first.is_from_cache, again.is_from_cache) == (False, True)
    assert np.array_equal(again.intersection, first.intersection)
    assert again.metrics | {"eval": None} == first.metrics | {"eval": None}


def rewritten(folder, change):
    """Changes the stored result as somebody would who also writes the right checksum."""
    (path,) = (folder / "cache").glob("evaluation-*.json")
    record = read_record(path)
    value, arrays = dict(record.value), dict(record.arrays)
    value = change(value, arrays) or value
    write_record(path, Record(record.key, value, arrays))


def test_scores_are_computed_from_the_counts_whatever_stands_beside_them(run):
    miou = evaluated(run).metrics["miou"]
    rewritten(run, lambda value, arrays: value.update(metrics={"miou": 0.99}))
    file = run / "eval" / "val-whole" / "metrics.json"
    file.write_text(file.read_text().replace(str(miou), "0.99"))
    assert evaluated(run).metrics["miou"] == miou
    assert written_metrics(run)["miou"] == miou


@pytest.mark.parametrize(
    "change",
    [
        lambda value, arrays: [1],
        lambda value, arrays: {"masks": 3},
        lambda value, arrays: arrays.pop("boundary") is None,
        lambda value, arrays: arrays.update(pixels=-arrays["pixels"]),
        lambda value, arrays: arrays.update(truth=arrays["truth"] + np.uint8(200)),
        lambda value, arrays: arrays.update(stems=arrays["stems"][:-1]),
        lambda value, arrays: arrays.update(boundary=arrays["boundary"].astype(float)),
    ],
)
def test_a_stored_result_of_other_content_is_computed_again(run, forwards, change):
    miou = evaluated(run).metrics["miou"]
    rewritten(run, change)
    forwards.clear()
    assert evaluated(run).metrics["miou"] == miou
    assert forwards


def test_outputs_requested_later_are_made_from_the_stored_masks(street_run, tmp_path, forwards):
    evaluated(street_run)
    forwards.clear()
    more = {"with_strata": True, "official": True, "masks": tmp_path / "masks", "submission": tmp_path / "s.zip"}
    metrics = evaluated(street_run, **more).metrics
    assert not forwards
    assert metrics["official"]["class_iou"] == pytest.approx(metrics["miou"], abs=1e-12)
    assert (tmp_path / "s.zip").is_file()
    shutil.rmtree(street_run / "cache")
    assert evaluated(street_run, **more | {"masks": tmp_path / "others"}).metrics == metrics
    for path in (tmp_path / "others").rglob("*.png"):
        assert (tmp_path / "masks" / path.relative_to(tmp_path / "others")).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "change",
    ["weights", "settings", "ignored ids", "image", "label", "mask gone", "mask replaced", "counts", "record"],
)
def test_a_result_counts_only_while_everything_it_depends_on_is_the_same(run, tiny_data, forwards, change):
    before = evaluated(run)
    record = next((run / "cache").glob("*.json"))
    mask = before.masks / "frame0.png"
    overrides = []
    if change == "weights":
        fit(load_recipe(run / "recipe.yaml", ["train.seed=1"]), run.with_name("other"))
        shutil.copy(checkpoints_of(run.with_name("other"))[0], run)
    if change == "settings":
        overrides = ["eval.flip=true"]
    if change == "ignored ids":
        overrides = ["data.ignore_ids=[9, 77]"]
    if change == "image":
        path = tiny_data / "images" / "val" / "frame0.png"
        Image.fromarray(np.asarray(Image.open(path)) ^ 1).save(path)
    if change == "label":
        path = tiny_data / "labels" / "val" / "frame0.png"
        label = np.asarray(Image.open(path)).copy()
        label[20, 20] = (label[20, 20] + 1) % 3
        Image.fromarray(label).save(path)
    if change == "mask gone":
        mask.unlink()
    if change == "mask replaced":
        mask.write_bytes((before.masks / "frame1.png").read_bytes())
    if change == "counts":
        record.with_suffix(".npz").write_bytes(record.with_suffix(".npz").read_bytes()[:-7])
    if change == "record":
        record.write_text(record.read_text().replace('"masks": "', '"masks": "0'))
    forwards.clear()
    after = evaluated(run, *overrides)
    assert len(forwards) >= 3
    if change in ("mask gone", "mask replaced", "counts", "record"):
        assert after.metrics == before.metrics
        assert contents(before.masks) == contents(after.masks)
    else:
        assert after.masks != before.masks
        assert before.masks.is_dir()


def test_an_uncompressed_image_changed_in_place_at_equal_size_is_evaluated_again(
    tiny_config, tiny_data, tmp_path, forwards
):
    for path in (tiny_data / "images" / "val").glob("*.png"):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    fit(load_recipe(tiny_config), tmp_path / "run")
    before = evaluated(tmp_path / "run")
    path = tiny_data / "images" / "val" / "frame1.bmp"
    size = path.stat().st_size
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    assert path.stat().st_size == size
    forwards.clear()
    after = evaluated(tmp_path / "run")
    assert len(forwards) == 3
    assert not np.array_equal(after.prediction, before.prediction)


def test_a_comparison_after_an_evaluation_with_strata_leaves_everything_of_it(street_run, forwards):
    """compare and inspect ask for the split alone."""
    evaluated(street_run, with_strata=True, official=True)
    (street_run / "eval" / "val-whole" / "strata.png").write_bytes(b"drawn by eval")
    before = contents(street_run / "eval") | contents(street_run / "cache")
    forwards.clear()
    evaluated(street_run)
    assert contents(street_run / "eval") | contents(street_run / "cache") == before
    assert not forwards


def test_somebody_s_metrics_json_is_not_replaced(run, forwards):
    mine = run / "eval" / "val-whole" / "metrics.json"
    mine.parent.mkdir(parents=True)
    mine.write_text('{"mine": 1}')
    with pytest.raises(ConfigError, match=r"metrics\.json: exists and was not written by segnl eval; move it aside"):
        evaluated(run)
    assert mine.read_text() == '{"mine": 1}'
    assert not forwards


def test_files_of_others_survive_in_all_folders(street_run, tmp_path):
    evaluation = evaluated(street_run)
    foreign = [evaluation.folder / "notes.txt", street_run / "cache" / "cost.json", evaluation.masks / "mine.png"]
    for path in foreign:
        path.write_text("mine")
    evaluated(street_run, "eval.flip=true", with_strata=True)
    evaluated(street_run)
    next((street_run / "cache").glob("*.npz")).unlink()
    evaluated(street_run)
    assert [path.read_text() for path in foreign] == ["mine"] * 3


def test_the_picture_of_another_result_s_strata_does_not_stay_beside_a_newer_one(run):
    evaluated(run, with_strata=True)
    picture = run / "eval" / "val-whole" / "strata.png"
    picture.write_bytes(b"drawn by eval")
    evaluated(run, "eval.flip=true")
    assert not picture.exists()
    picture.write_bytes(b"drawn by eval")
    evaluated(run)  # stored
    assert not picture.exists()


# ---- failures ----


def test_a_killed_evaluation_leaves_no_result_and_the_next_one_is_whole(run, forwards):
    whole = evaluated(run)
    shutil.rmtree(run / "cache")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(run)], cwd=ROOT, capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()
    assert not list((run / "eval" / "val-whole").iterdir())  # an earlier result would pass for its own
    leftover = next((run / "cache").rglob("*.png")).with_name(".frame0.png.segnl-0123abcd")
    leftover.touch()
    os.utime(leftover, (0, 0))
    assert not list((run / "cache").glob("*.json"))
    forwards.clear()
    assert evaluated(run).metrics == whole.metrics
    assert len(forwards) == 3  # the masks that the killed one left are not trusted
    assert not leftover.exists()


def test_labels_that_change_during_the_evaluation_leave_no_result(run, tiny_data, monkeypatch):
    plain, label = Predictor.labels, tiny_data / "labels" / "val" / "frame0.png"

    def labels(self, image):
        Image.new("L", Image.open(label).size).save(label)
        return plain(self, image)

    monkeypatch.setattr(Predictor, "labels", labels)
    with pytest.raises(DataError, match="images or labels changed during the evaluation; evaluate again"):
        evaluate_run(open_run(run))
    assert not [*run.rglob("metrics.json")]
    monkeypatch.undo()
    assert evaluate_run(open_run(run)).metrics["miou"] is not None


def test_a_training_that_starts_over_during_the_evaluation_gets_no_result_of_the_old_one(run, monkeypatch):
    plain, aside = Predictor.labels, run.with_name("run.old1")

    def labels(self, image):
        if not aside.exists():
            run.rename(aside)
            run.mkdir()
        return plain(self, image)

    monkeypatch.setattr(Predictor, "labels", labels)
    with pytest.raises(ConfigError, match="another training took its place during the evaluation; evaluate again"):
        evaluate_run(open_run(run))
    assert not [*run.rglob("metrics.json")]


def test_a_result_whose_masks_were_deleted_during_the_evaluation_is_computed_again(run, tmp_path, monkeypatch):
    calls, plain = [], module.masks_digest

    def digest(folder, sample_ids):
        calls.append(folder)
        if len(calls) == 2:  # after the pass over the images
            shutil.rmtree(run / "cache")
        return plain(folder, sample_ids)

    monkeypatch.setattr(module, "masks_digest", digest)
    whole = evaluated(run)
    monkeypatch.undo()
    assert len(calls) == 2
    assert evaluated(run, masks=tmp_path / "masks").metrics == whole.metrics


def test_a_damaged_image_leaves_no_result(run, tiny_data):
    evaluated(run, with_strata=True)
    path = tiny_data / "images" / "val" / "frame2.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="frame2"):
        evaluated(run)
    assert not list((run / "eval" / "val-whole").iterdir())


def test_an_unwritable_mask_folder_is_refused_before_anything_is_scored(run, tmp_path, forwards):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError, match="file/masks"):
        evaluated(run, masks=tmp_path / "file" / "masks")
    assert not forwards


def test_missing_instances_are_named_before_anything_is_scored(street_runs, tmp_path, forwards):
    streets = tmp_path / "streets"
    shutil.copytree(street_runs[0].parent / "streets", streets)
    instances = max((streets / "gtFine" / "val").rglob("*_instanceIds.png"))
    instances.unlink()
    shutil.copytree(street_runs[0], tmp_path / "fcn")
    with pytest.raises(DataError, match=rf"{instances.name}: missing; the instance-weighted scores need it"):
        evaluated(tmp_path / "fcn", f"data.root={streets}", official=True)
    assert not forwards


def test_the_official_scores_need_the_layout_of_cityscapes(run):
    with pytest.raises(ConfigError, match="--official: needs a data set in Cityscapes' layout"):
        evaluated(run, official=True)


def test_a_data_set_without_a_server_has_no_submission(run, tmp_path):
    with pytest.raises(ConfigError, match="no server scores 'folder'; cityscapes and ade20k have one"):
        evaluated(run, submission=tmp_path / "out.zip")


def test_a_data_set_of_other_classes_is_refused(street_runs, tiny_config):
    run = Run(open_checkpoint(street_runs[0]), load_recipe(tiny_config))
    with pytest.raises(CheckpointError, match=r"predicts 19 classes .*, but .*tiny has 3"):
        evaluate_run(run)


def test_other_data_has_a_folder_of_its_own_and_each_result_says_whose_it_is(run, tiny_data):
    own = evaluated(run)
    before = (own.folder / "metrics.json").read_bytes()
    copy = tiny_data.with_name("copy")
    shutil.copytree(tiny_data, copy)
    same = evaluated(run, f"data.root={copy}")  # moved, not changed
    assert (same.folder, same.is_from_cache) == (own.folder, True)
    assert same.metrics["data"] == own.metrics["data"] | {"root": str(copy)}
    evaluated(run)
    label = Image.open(copy / "labels/val/frame0.png")
    Image.fromarray(np.roll(np.asarray(label), 3)).save(copy / "labels/val/frame0.png")
    other = evaluated(run, f"data.root={copy}")
    content = other.metrics["data"]["content"]
    assert other.folder.name == f"val-whole-on-copy-{content[:8]}"
    assert content != own.metrics["data"]["content"]
    assert (own.folder / "metrics.json").read_bytes() == before
    fold = evaluated(run, "data.fold={count: 2, number: 1}")
    assert fold.folder.name.startswith("val-whole-on-tiny-")
    assert fold.metrics["num_images"] == 2
    assert (own.folder / "metrics.json").read_bytes() == before


def test_masks_are_not_kept_through_a_link_in_the_cache(run, tmp_path):
    masks = evaluated(run).masks
    shutil.rmtree(masks.parent)
    (tmp_path / "elsewhere").mkdir()
    masks.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is a symbolic link"):
        evaluated(run)
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("data", [[], 5, None, "x"])
def test_a_result_that_does_not_say_of_which_data_it_is_takes_no_place(run, tiny_data, data):
    own = evaluated(run)
    file = own.folder / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"data": data}))
    copy = tiny_data.with_name("copy")
    shutil.copytree(tiny_data, copy)
    assert evaluated(run, f"data.root={copy}").folder.name.startswith("val-whole-on-copy-")
    assert evaluated(run).metrics == own.metrics
    assert json.loads(file.read_text())["data"] == own.metrics["data"]


def test_images_of_sub_folders_and_odd_names_are_scored_and_their_masks_lie_in_sub_folders(run, tiny_data, tmp_path):
    for kind in ("images", "labels"):
        folder = tiny_data / kind / "val"
        (folder / "a").mkdir()
        (folder / "frame0.png").rename(folder / "a/frame0.png")
        (folder / "frame1.png").rename(folder / os.fsdecode(b"Stra\xdfe.png"))
    evaluation = evaluated(run, masks=tmp_path / "masks")
    assert evaluation.sample_ids == ("Stra\\xdfe", "a/frame0", "frame2")
    for kind in ("ids", "colour", "overlay", "error"):
        assert (tmp_path / "masks" / kind / "a/frame0.png").is_file()
        assert (tmp_path / "masks" / kind / "Stra\\xdfe.png").is_file()
    evaluated(run, masks=tmp_path / "masks")
