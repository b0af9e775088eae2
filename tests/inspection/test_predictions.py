import json
import shutil

import numpy as np
import pytest

from segnl.core.errors import CheckpointError
from segnl.datasets.streets import ambiguous_mask
from segnl.engine.build import build_data
from segnl.engine.checkpoint import open_checkpoint
from segnl.inspection import predictions as module
from segnl.inspection.predictions import keep_predictions
from segnl.inspection.score import recipe_for_scoring


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


def test_pairs_are_counted_on_the_ambiguous_pixels(run):
    found, data = kept(run), data_of(run)
    right = total = 0
    for i in range(len(data)):
        ambiguous = ambiguous_mask(data, i)
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


@pytest.mark.parametrize("what", ["other weights", "other protocol", "a mask gone", "cut off"])
def test_predictions_are_made_again_when_anything_they_depend_on_changed(run, monkeypatch, what):
    found = kept(run)
    if what == "other weights":
        shutil.copy(run.parent / "rcca" / "step-00000002.safetensors", run / "step-00000003.safetensors")
        file = run / "step-00000003.safetensors"
        monkeypatch.setattr(module, "sha256_of", lambda path: "other" if path == file else "same")
    if what == "a mask gone":
        next((found.folder / "ids").iterdir()).unlink()
    if what == "cut off":
        (found.folder / "kept.json").write_text('{"belongs_to": ')
    made = []
    monkeypatch.setattr(module, "_made", lambda *_arguments: made.append(1) or found)
    checkpoint = open_checkpoint(run)
    overrides = ["eval.flip=true"] if what == "other protocol" else []
    keep_predictions(checkpoint, recipe_for_scoring(checkpoint, overrides), "val")
    assert made == [1]


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
    from segnl.engine.recipe import load_recipe

    checkpoint = open_checkpoint(street_runs[0])
    with pytest.raises(CheckpointError, match=r"predicts 19 classes, but .*tiny has 3"):
        keep_predictions(checkpoint, load_recipe(tiny_config), "val")
