import numpy as np
import pytest

from segnl.evaluation.predictions import keep_predictions
from segnl.evaluation.score import recipe_for_scoring
from segnl.metrics.confusion import Confusion
from segnl.metrics.strata import WIDTHS_PX, Strata
from segnl.reports import where as module
from segnl.reports.where import PARTS, add, iou_by_part, parts_of, recall_by_part, where_plots, where_right
from segnl.runs.build import build_data
from segnl.runs.checkpoint import open_checkpoint

K, HW = 3, (47, 71)


def maps(seed=0):
    """Blocks of two classes and some void, and predictions with mistakes, void among them."""
    random = np.random.default_rng(seed)
    label = np.kron(random.choice([0, 1, 1, 255], (6, 8)), np.ones((8, 9), int))[: HW[0], : HW[1]].astype(np.uint8)
    pred = np.where(random.random(HW) < 0.3, random.choice([0, 1, 2, 255], HW), np.where(label == 255, 1, label))
    return pred.astype(np.uint8), label


def counted(pred, label):
    counts = {name: np.zeros((parts, K, K + 1), np.int64) for name, parts in PARTS.items()}
    add(counts, parts_of(label), pred, label)
    return counts


def test_rows_rings_and_sizes_are_those_of_eval_with_strata():
    pred, label = maps()
    strata = Strata(K)
    strata.update(pred, label)
    mapping, counts = strata.as_json(), counted(pred, label)
    assert np.array_equal(counts["row"], strata.counts["row"])
    assert np.array_equal(counts["ring"], strata.counts["ring"])
    recall = [np.nan if size["recall"] is None else size["recall"] for size in mapping["recall_by_component"]]
    np.testing.assert_allclose(recall_by_part(counts["size"]), recall, rtol=1e-14)
    np.testing.assert_allclose(iou_by_part(counts["row"]), np.array(mapping["iou_by_row"], float), rtol=1e-14)


def test_the_parts_by_distance_add_up_to_the_trimaps_and_to_all_pixels():
    pred, label = maps(1)
    strata, everything = Strata(K), Confusion(K)
    strata.update(pred, label)
    everything.update(pred, label)
    counts = counted(pred, label)["distance"]
    for part in range(len(WIDTHS_PX)):
        assert np.array_equal(counts[: part + 1].sum(axis=0), strata.counts["trimap"][part])
    for each in counted(pred, label).values():
        assert np.array_equal(each.sum(axis=0), everything.matrix)


@pytest.fixture
def runs_and_data(street_runs):
    runs = {}
    for run in street_runs:
        checkpoint = open_checkpoint(run)
        recipe = recipe_for_scoring(checkpoint, ())
        runs[run.name] = keep_predictions(checkpoint, recipe, "val")
    for predictions in runs.values():
        (predictions.folder / module.FILE).unlink(missing_ok=True)
    return runs, build_data(recipe, "val")


def test_counts_are_of_the_kept_masks_and_are_kept_themselves(runs_and_data, monkeypatch):
    runs, data = runs_and_data
    found = where_right(runs, data)
    for name, counts in found.items():
        for each in counts.values():
            assert np.array_equal(each.sum(axis=0).sum(axis=1), runs[name].true.sum(axis=0))
            assert np.array_equal(np.diagonal(each.sum(axis=0)), runs[name].right.sum(axis=0))
    monkeypatch.setattr(module, "_count", lambda *_: pytest.fail("counted again"))
    again = where_right(runs, data)
    assert all(np.array_equal(found[name][part], again[name][part]) for name in runs for part in PARTS)


@pytest.mark.parametrize("what", ["other predictions", "cut off"])
def test_counts_that_do_not_belong_to_the_predictions_are_made_again(runs_and_data, what):
    runs, data = runs_and_data
    before = where_right(runs, data)["fcn"]
    file = runs["fcn"].folder / module.FILE
    if what == "cut off":
        file.write_bytes(file.read_bytes()[:100])
    else:
        with np.load(file) as arrays:
            mapping = dict(arrays)
        np.savez(file, **mapping | {"belongs_to": np.array("others"), "row": mapping["row"] + 1})
    after = where_right(runs, data)["fcn"]
    assert all(np.array_equal(before[part], after[part]) for part in PARTS)


def test_the_plots_have_a_line_a_head_with_runs_and_figures_for_each_part():
    pred, label = maps()
    counts = counted(pred, label)
    group = where_plots([[counts, counted(*maps(2))], [], [counts], []])
    assert len(group.plots) == len(PARTS)
    for plot, name in zip(group.plots, PARTS, strict=True):
        assert [series.head for series in plot.series] == [0, 2]
        total = counts[name] + counted(*maps(2))[name]
        assert len(plot.rows) == (total.sum(axis=(1, 2)) > 0).sum()  # sizes that do not occur are left out
        assert [bool(series.band) for series in plot.series] == [True, False]
    _, texts = group.plots[2].rows[0]
    assert (len(texts), texts[1], texts[3]) == (4, "–", "–")
    assert texts[2] == f"{100 * iou_by_part(counts['row'])[0]:.2f}"
    assert "lowest to the highest seed" in group.meaning
    assert "seed" not in where_plots([[counts]]).meaning
    assert where_plots([[], []]) is None
