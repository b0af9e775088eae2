import json
import shutil

import cv2
import numpy as np
import pytest
import torch

from segnl.core.errors import CheckpointError
from segnl.evaluation import predictions as module
from segnl.evaluation.predictions import keep_predictions
from segnl.evaluation.score import recipe_for_scoring
from segnl.metrics.strata import boundary_width
from segnl.models.ablation import Ablation
from segnl.runs.build import build_data
from segnl.runs.checkpoint import open_checkpoint


@pytest.fixture
def run(street_runs, tmp_path):
    shutil.copytree(street_runs[1], tmp_path / "rcca")
    return tmp_path / "rcca"


def kept(run):
    checkpoint = open_checkpoint(run)
    return keep_predictions(checkpoint, recipe_for_scoring(checkpoint, ()), "val")


def data_of(run):
    return build_data(recipe_for_scoring(open_checkpoint(run), ()), "val")


def test_the_counts_are_those_of_the_masks_pixel_by_pixel(run):
    found, data = kept(run), data_of(run)
    for i in range(len(data)):
        sample, mask = data.read(i), found.mask(i, data.table)
        for k in range(data.table.num_classes):
            scored = sample.label != 255
            assert found.true[i, k] == (sample.label == k).sum()
            assert found.predicted[i, k] == ((mask == k) & scored).sum()
            assert found.right[i, k] == ((mask == k) & (sample.label == k)).sum()
        share = ((mask != sample.label) & scored).sum() / scored.sum()
        assert found.wrong()[i] == pytest.approx(share)


def test_boundary_iou_is_that_of_each_class_s_own_mask(run):
    found, data = kept(run), data_of(run)
    right, either = (np.zeros(data.table.num_classes) for _ in range(2))
    for i in range(len(data)):
        label, mask = data.read(i).label, found.mask(i, data.table)
        mask = np.where(label == 255, 255, mask)
        square = np.ones((2 * boundary_width(label.shape) + 1,) * 2, np.uint8)
        for k in range(data.table.num_classes):
            inside = [
                is_k - cv2.erode(is_k, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
                for is_k in ((label == k).astype(np.uint8), (mask == k).astype(np.uint8))
            ]
            right[k] += (inside[0] & inside[1]).sum()
            either[k] += (inside[0] | inside[1]).sum()
    occurs = either > 0
    np.testing.assert_allclose(found.boundary_iou()[occurs], right[occurs] / either[occurs])
    assert found.metrics["boundary_iou"] == pytest.approx((right[occurs] / either[occurs]).mean())
    assert np.isnan(found.boundary_iou()[~occurs]).all()


def test_an_ablation_has_a_folder_of_its_own_and_is_kept_there(run, monkeypatch):
    """gamma is hardly open after two steps; opened wide, shuffled keys must show."""
    opened = module.predictor_of

    def wide_open(checkpoint, recipe):
        predictor = opened(checkpoint, recipe)
        with torch.no_grad():
            predictor.model.head.shell.context.gamma.scale.fill_(30.0)
        return predictor

    monkeypatch.setattr(module, "predictor_of", wide_open)
    checkpoint = open_checkpoint(run)
    recipe = recipe_for_scoring(checkpoint, ())
    whole, broken = (keep_predictions(checkpoint, recipe, "val", each) for each in (None, Ablation("shuffled")))
    assert (whole.folder.name, broken.folder.name) == ("val-whole", "val-whole-shuffled")
    assert (whole.metrics["ablation"], broken.metrics["ablation"]) == (None, "shuffled")
    assert (whole.predicted != broken.predicted).any()
    monkeypatch.setattr(module, "evaluate", lambda *a, **kw: pytest.fail("scored again"))
    again = keep_predictions(checkpoint, recipe, "val", Ablation("shuffled"))
    assert (again.predicted == broken.predicted).all()


def test_pairs_are_counted_on_the_ambiguous_pixels(run):
    found, data = kept(run), data_of(run)
    right = total = 0
    for i in range(len(data)):
        ambiguous = data.ambiguous_mask(i)
        total += (ambiguous == 1).sum()
        right += ((ambiguous == 1) & (found.mask(i, data.table) == data.read(i).label)).sum()
    assert found.pairs[:, 0].sum(axis=0).tolist() == [right, total]


def test_the_mean_of_the_ious_is_the_miou_in_metrics_json(run):
    found = kept(run)
    metrics = json.loads((found.folder / "metrics.json").read_text())
    assert np.nanmean(found.iou()) == pytest.approx(metrics["miou"])
    assert metrics["complete"] is True
    assert metrics["step"] == 2


def test_the_commonest_class_everywhere_is_scored_over_the_classes_of_the_truth(run):
    found = kept(run)
    true = found.true.sum(axis=0)
    k, miou = found.commonest_class()
    assert true[k] == true.max()
    assert miou == pytest.approx(true.max() / true.sum() / (true > 0).sum())


def test_predictions_are_made_once(run, monkeypatch):
    first = kept(run)

    def fail(*_arguments, **_named):
        raise AssertionError("predicted again")

    monkeypatch.setattr(module, "evaluate", fail)
    again = kept(run)
    assert np.array_equal(again.right, first.right)
    assert again.metrics == first.metrics


@pytest.mark.parametrize("what", ["other weights", "other protocol", "a mask gone", "cut off", "damaged", "empty"])
def test_predictions_are_made_again_when_anything_they_depend_on_changed(run, monkeypatch, what):
    found = kept(run)
    if what == "other weights":
        shutil.copy(run.parent / "rcca" / "step-00000002.safetensors", run / "step-00000003.safetensors")
        file = run / "step-00000003.safetensors"
        monkeypatch.setattr(module, "sha256_of", lambda path: "other" if path == file else "same")
    if what == "a mask gone":
        next((found.folder / "ids").iterdir()).unlink()
    if what in ("damaged", "empty"):
        counts = found.folder / "counts.npz"
        data = bytearray(counts.read_bytes())
        data[len(data) // 3] ^= 1
        counts.write_bytes(bytes(data) if what == "damaged" else b"")
    if what == "cut off":
        (found.folder / "kept.json").write_text('{"belongs_to": ')
    made = []
    monkeypatch.setattr(module, "_made", lambda *_arguments: made.append(1) or found)
    checkpoint = open_checkpoint(run)
    overrides = ["eval.flip=true"] if what == "other protocol" else []
    keep_predictions(checkpoint, recipe_for_scoring(checkpoint, overrides), "val")
    assert made == [1]


def test_labels_that_were_corrected_in_place_are_scored_anew(run, monkeypatch, tmp_path):
    kept(run)
    data = data_of(run)
    label = tmp_path / "corrected.png"
    label.write_bytes(data.label_path(0).read_bytes()[::-1])  # as many bytes, other ones
    monkeypatch.setattr(type(data), "label_path", lambda self, i: label if i == 0 else self._labels[i])
    made = []
    monkeypatch.setattr(module, "_made", lambda *_arguments: made.append(1))
    kept(run)
    assert made == [1]


def test_scores_of_another_evaluation_are_not_left_beside_new_predictions(run):
    folder = run / "eval" / "val-whole"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("kept.json", "per_image.npz", "strata.png"):
        (folder / name).write_text("of an earlier evaluation")
    kept(run)
    assert not (folder / "per_image.npz").exists()
    assert not (folder / "strata.png").exists()


def test_an_evaluation_that_is_broken_off_leaves_nothing_that_counts(run, monkeypatch):
    kept(run)
    (run / "eval" / "val-whole" / "kept.json").unlink()

    def die(*_arguments, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "evaluate", die)
    with pytest.raises(KeyboardInterrupt):
        kept(run)
    assert not (run / "eval" / "val-whole" / "kept.json").exists()


def test_a_data_set_of_other_classes_is_refused(street_runs, tiny_data, tiny_config):
    from segnl.runs.recipe import load_recipe

    checkpoint = open_checkpoint(street_runs[0])
    with pytest.raises(CheckpointError, match=r"predicts 19 classes, but .*tiny has 3"):
        keep_predictions(checkpoint, load_recipe(tiny_config), "val")
