import numpy as np
import pytest

from segnl.reports.charts import class_chart, cost_plots, difference_chart, pair_chart
from segnl.streets.pairs import PAIRS


def test_the_classes_on_which_heads_differ_most_come_first_and_unknown_ones_last():
    one, two = np.array([0.5, 0.1, np.nan, 0.3]), np.array([0.6, 0.9, np.nan, 0.3])
    chart = class_chart(["a", "b", "c", "d"], [one, two], np.array([5, 3, 0, 2]))
    assert [row.label for row in chart.rows] == ["b", "a", "d", "c"]
    assert chart.rows[0].values == pytest.approx([0.1, 0.9])
    assert chart.rows[-1].values == [None, None]
    assert chart.rows[1].note == "50.0 % of pixels"
    assert chart.rows[-1].note == "not in any label"


def test_every_ambiguous_pair_has_a_row_and_guessing_is_marked():
    chart = pair_chart([np.linspace(0, 1, len(PAIRS)), np.full(len(PAIRS), np.nan)])
    assert [row.label for row in chart.rows] == [pair.name for pair in PAIRS]
    assert chart.rows[0].values == [0.0, None]
    assert chart.guide == 0.5


def test_differences_are_sorted_by_gain():
    classes = {
        "road": (0.01, -0.01, 0.03),
        "car": (0.04, 0.02, 0.06),
        "sky": (None, None, None),
        "pole": (-0.02, None, None),
        "wall": (-0.03, -0.04, -0.02),
    }
    chart = difference_chart("rcca", "fcn", classes, is_about_heads=True)
    assert list(chart.rows) == ["car", "road", "pole", "wall", "sky"]
    assert chart.reach == 0.06  # the longest interval reaches the end of the scale
    assert "new seeds and new images" in chart.meaning
    assert "one seed shows no more" in difference_chart("rcca", "fcn", classes, is_about_heads=False).meaning


def test_a_chart_of_equal_heads_does_not_divide_by_zero():
    chart = difference_chart("rcca", "fcn", {"road": (0.0, None, None)}, is_about_heads=True)
    assert chart.reach > 0


def head_row(miou, sd=None, **costs):
    return {"miou_mean": miou, "miou_sd": sd, "params": 2_000_000, "gflops": 1.5, "latency_ms": None} | costs


def test_every_cost_that_is_known_of_all_heads_has_a_plot():
    heads = {"fcn": head_row(0.4, latency_ms=7.0), "refused": head_row(None), "rcca": head_row(0.5, gflops=2.5)}
    group = cost_plots(heads)
    assert [plot.x_label for plot in group.plots] == ["GFLOPs for one image", "million parameters"]
    fcn, rcca = group.plots[0].series
    assert (fcn.head, rcca.head) == (0, 2)
    assert fcn.marks[0][0] < rcca.marks[0][0]  # cheaper: further left
    assert fcn.marks[0][1] < rcca.marks[0][1]  # worse: further down
    assert [text for _, text in group.plots[1].x_ticks if float(text) == 2.0]
    assert "standard deviation" not in group.meaning
    assert cost_plots({"refused": head_row(None)}) is None


def test_the_standard_deviation_over_seeds_is_an_error_bar():
    group = cost_plots({"fcn": head_row(0.4, 0.01), "rcca": head_row(0.5, 0.02)})
    fcn, rcca = (series.error_bars[0] for series in group.plots[0].series)
    assert rcca[2] - rcca[1] == pytest.approx(2 * (fcn[2] - fcn[1]))
    assert "standard deviation" in group.meaning
