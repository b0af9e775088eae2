import shutil

import numpy as np
import pytest

from segnl.evaluation.evaluate_run import evaluate_run
from segnl.metrics.confusion import Confusion
from segnl.metrics.strata import WIDTHS_PX, Strata
from segnl.reports import error_map as module
from segnl.reports.error_map import NUM_BINS, add, bins_of, error_map_plots, error_maps, iou_by_bin, recall_by_bin
from segnl.runs.run import open_run

K, HW = 3, (47, 71)


def maps(seed=0):
    """Blocks of two classes and some ignored pixels, and predictions with mistakes, ignored pixels among them."""
    random = np.random.default_rng(seed)
    label = np.kron(random.choice([0, 1, 1, 255], (6, 8)), np.ones((8, 9), int))[: HW[0], : HW[1]].astype(np.uint8)
    pred = np.where(random.random(HW) < 0.3, random.choice([0, 1, 2, 255], HW), np.where(label == 255, 1, label))
    return pred.astype(np.uint8), label


def counted(pred, label):
    counts = {name: np.zeros((bins, K, K + 1), np.int64) for name, bins in NUM_BINS.items()}
    add(counts, bins_of(label), pred, label)
    return counts


def test_rows_rings_and_sizes_are_those_of_eval_with_strata():
    pred, label = maps()
    strata = Strata(K)
    strata.update(pred, label)
    mapping, counts = strata.to_dict(), counted(pred, label)
    assert np.array_equal(counts["row"], strata.counts["row"])
    assert np.array_equal(counts["ring"], strata.counts["ring"])
    recall = [np.nan if size["recall"] is None else size["recall"] for size in mapping["recall_by_component"]]
    np.testing.assert_allclose(recall_by_bin(counts["size"]), recall, rtol=1e-14)
    np.testing.assert_allclose(iou_by_bin(counts["row"]), np.array(mapping["iou_by_row"], float), rtol=1e-14)


def test_the_bins_by_distance_add_up_to_the_trimaps_and_to_all_pixels():
    pred, label = maps(1)
    strata, everything = Strata(K), Confusion(K)
    strata.update(pred, label)
    everything.update(pred, label)
    counts = counted(pred, label)["distance"]
    for index in range(len(WIDTHS_PX)):
        assert np.array_equal(counts[: index + 1].sum(axis=0), strata.counts["trimap"][index])
    for matrices in counted(pred, label).values():
        assert np.array_equal(matrices.sum(axis=0), everything.matrix)


@pytest.fixture
def runs_and_data(street_runs):
    runs = {}
    for run in street_runs:
        shutil.rmtree(run / "cache", ignore_errors=True)
        runs[run.name] = evaluate_run(open_run(run))
    return runs, open_run(run).open_data("val")


def test_counts_agree_with_the_scores_and_are_kept(runs_and_data, monkeypatch):
    runs, data = runs_and_data
    maps = error_maps(runs, data)
    for name, counts in maps.items():
        for matrices in counts.values():
            assert np.array_equal(matrices.sum(axis=0).sum(axis=1), runs[name].target.sum(axis=0))
            assert np.array_equal(np.diagonal(matrices.sum(axis=0)), runs[name].intersection.sum(axis=0))
    monkeypatch.setattr(module, "_count", lambda *_: pytest.fail("counted again"))
    again = error_maps(runs, data)
    assert all(np.array_equal(maps[name][binning], again[name][binning]) for name in runs for binning in NUM_BINS)


def test_damaged_counts_are_made_again(runs_and_data, street_runs):
    runs, data = runs_and_data
    before = error_maps(runs, data)["fcn"]
    file = next((street_runs[0] / "cache").glob("error_map-*.npz"))
    file.write_bytes(file.read_bytes()[:100])
    after = error_maps(runs, data)["fcn"]
    assert all(np.array_equal(before[binning], after[binning]) for binning in NUM_BINS)


def test_plots_have_a_line_for_each_head_with_runs_and_figures_for_each_bin():
    pred, label = maps()
    counts = counted(pred, label)
    group = error_map_plots([[counts, counted(*maps(2))], [], [counts], []])
    assert len(group.plots) == len(NUM_BINS)
    for plot, name in zip(group.plots, NUM_BINS, strict=True):
        assert [series.head for series in plot.series] == [0, 2]
        total = counts[name] + counted(*maps(2))[name]
        assert len(plot.rows) == (total.sum(axis=(1, 2)) > 0).sum()  # sizes that do not occur are left out
        assert [bool(series.band) for series in plot.series] == [True, False]
    _, texts = group.plots[2].rows[0]
    assert (len(texts), texts[1], texts[3]) == (4, "–", "–")
    assert texts[2] == f"{100 * iou_by_bin(counts['row'])[0]:.2f}"
    assert "lowest to the highest seed" in group.meaning
    assert "seed" not in error_map_plots([[counts]]).meaning
    assert error_map_plots([[], []]) is None
