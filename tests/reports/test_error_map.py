import shutil

import numpy as np
import pytest

from segnl.evaluation.evaluate_run import evaluate_run
from segnl.metrics.strata import NUM_BINS, add_by_bin, bins_of, iou_by_bin
from segnl.reports import error_map as module
from segnl.reports.error_map import error_map_plots, error_maps
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
    add_by_bin(counts, bins_of(label)[0], pred, label)
    return counts


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
