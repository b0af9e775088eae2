import numpy as np
import pytest

from segnl.datasets.streets_pairs import PAIRS
from segnl.inspection.charts import class_chart, pair_chart


def test_the_classes_on_which_heads_differ_most_come_first_and_unknown_ones_last():
    one, two = np.array([0.5, 0.1, np.nan, 0.3]), np.array([0.6, 0.9, np.nan, 0.3])
    chart = class_chart(["a", "b", "c", "d"], [one, two], np.array([5, 3, 0, 2]))
    assert [row.label for row in chart.rows] == ["b", "a", "d", "c"]
    assert chart.rows[0].values == pytest.approx([0.1, 0.9])
    assert chart.rows[-1].values == [None, None]
    assert chart.rows[1].note == "50.0 % of pixels"
    assert chart.rows[-1].note == "not in the truth"


def test_every_ambiguous_pair_has_a_line_and_guessing_is_marked():
    chart = pair_chart([np.linspace(0, 1, len(PAIRS)), np.full(len(PAIRS), np.nan)])
    assert [row.label for row in chart.rows] == [pair.name for pair in PAIRS]
    assert chart.rows[0].values == [0.0, None]
    assert chart.guide == 0.5
