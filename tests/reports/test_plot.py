import re

import numpy as np
import pytest

from segnl.reports.plot import Points, category_plot, line_plot, mean_and_range, scatter_plot

NAN = np.nan


def points(head, y, low=None, high=None, x=None):
    y = np.array(y, float)
    x = np.arange(len(y), dtype=float) if x is None else np.array(x, float)
    return Points(head, x, y, *(None if values is None else np.array(values, float) for values in (low, high)))


def corners(path):
    """The places of an SVG path in the box of 100 x 100, y upwards, each with its letter."""
    return [
        (letter, float(x) / 100, 1 - float(y) / 100) for letter, x, y in re.findall(r"([ML])([\d.]+) ([\d.]+)", path)
    ]


def test_a_line_runs_through_its_values_as_the_ticks_place_them():
    plot = line_plot("t", [points(0, [1.0, 3.0, 2.0], x=[0, 10, 40])], x_label="steps", y_label="loss")
    places = {float(text): place for place, text in plot.x_ticks}
    heights = {float(text): place for place, text in plot.y_ticks}
    expected = [("M", places[0], heights[1]), ("L", places[10], heights[3]), ("L", places[40], heights[2])]
    for corner, position in zip(corners(plot.series[0].line), expected, strict=True):
        assert corner[0] == position[0]
        assert corner[1:] == pytest.approx(position[1:], abs=1e-4)  # two decimals of a hundredth
    assert len(plot.series[0].marks) == 1  # at its end


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.9), (-3, 1200), (21.3, 21.4), (5, 5), (0, 0), (1e-7, 3e-7)])
def test_ticks_are_a_few_round_numbers_at_their_places(low, high):
    ticks = line_plot("t", [points(0, [low, high])], x_label="x", y_label="y").y_ticks
    values = [float(text.replace(",", "")) for _, text in ticks]
    assert 2 <= len(ticks) <= 7
    steps = np.diff(values)
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert all(0 <= place <= 1 for place, _ in ticks)
    assert np.diff([place for place, _ in ticks]) == pytest.approx([ticks[1][0] - ticks[0][0]] * len(steps))
    digits = f"{steps[0]:e}"[0]
    assert digits in "125"


def test_a_nan_breaks_the_line_and_has_no_mark():
    plot = category_plot("t", [points(1, [1, NAN, 3, 4])], ["a", "b", "c", "d"], num_heads=3, x_label="x", y_label="y")
    assert [letter for letter, *_ in corners(plot.series[0].line)] == ["M", "M", "L"]
    assert [text for *_, text in plot.series[0].marks] == ["1.00", "3.00", "4.00"]
    assert plot.rows[1] == ("b", ["–", "–", "–"])
    assert plot.rows[3] == ("d", ["–", "4.00", "–"])  # the other heads have no values at all


def test_a_band_runs_along_the_maxima_and_back_along_the_minima():
    plot = category_plot("t", [points(0, [2, 2], [1, 1], [3, 4])], ["a", "b"], num_heads=1, x_label="x", y_label="y")
    heights = {float(text): place for place, text in plot.y_ticks}
    found = [y for _, _, y in corners(plot.series[0].band)]
    assert found == pytest.approx([heights[3], heights[4], heights[1], heights[1]], abs=1e-4)
    assert plot.series[0].band.endswith("Z")


def test_a_scatter_has_marks_and_error_bars_but_no_line():
    plot = scatter_plot("t", [points(0, [40], [39], [41], x=[1]), points(1, [42], x=[2])], x_label="x", y_label="y")
    with_range, alone = plot.series
    assert (with_range.line, with_range.band, alone.error_bars) == ("", "", [])
    (at, low, high), (x, y, _) = with_range.error_bars[0], with_range.marks[0]
    assert at == x
    assert low < y < high


def test_mean_and_range_leave_out_nan():
    mean, low, high = mean_and_range([np.array([1.0, NAN, NAN]), np.array([3.0, 5.0, NAN])])
    np.testing.assert_array_equal(mean, [2, 5, NAN])
    np.testing.assert_array_equal(low, [1, 5, NAN])
    np.testing.assert_array_equal(high, [3, 5, NAN])
    assert mean_and_range([np.array([1.0])])[1:] == (None, None)


def test_values_that_are_all_nan_give_an_empty_plot():
    plot = line_plot("t", [points(0, [NAN, NAN])], x_label="x", y_label="y")
    assert plot.series[0].line == ""
    assert plot.series[0].marks == []
