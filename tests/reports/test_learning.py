import json

import numpy as np
import pytest

from segnl.reports.curves import read_curve
from segnl.reports.learning import MAX_POINTS, _loss, _points, learning_plots


def write(folder, losses, miou=None):
    folder.mkdir(parents=True)
    lines = [{"step": step, "loss": loss, "lr": 0.1} for step, loss in enumerate(losses, start=1)]
    lines += [{"event": "eval", "step": step, "miou": value} for step, value in (miou or {}).items()]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_head_s_line_is_the_mean_over_its_seeds_and_its_band_their_range():
    steps = np.array([1.0, 2.0, 4.0])
    runs = [(steps, np.array([1.0, 2.0, 4.0])), (np.array([1.0, 4.0]), np.array([3.0, 9.0]))]
    found = _points(2, runs)
    assert found.head == 2
    assert found.x.tolist() == [1, 2, 4]
    assert found.y.tolist() == [2, 3.5, 6.5]  # the second run's loss at step 2 lies between its logged ones
    assert (found.low.tolist(), found.high.tolist()) == ([1, 2, 4], [3, 5, 9])


def test_the_first_tenth_is_left_out_and_long_runs_are_thinned(tmp_path):
    curve = read_curve(write(tmp_path / "long", np.linspace(9, 1, 1000)), "long")
    steps, loss = _loss(curve)
    assert steps[0] == 100
    thinned = _points(0, [(steps, loss)])
    assert thinned.x.size == MAX_POINTS
    assert thinned.x[[0, -1]].tolist() == [100, 1000]
    inner = slice(1, -2)  # at the ends fewer values are averaged
    assert thinned.y[inner] == pytest.approx(
        np.interp(thinned.x[inner], np.arange(1, 1001), np.linspace(9, 1, 1000)), abs=0.05
    )


def test_validations_have_a_plot_of_their_own_where_there_are_any(tmp_path):
    plain = write(tmp_path / "a-s0", [3, 2, 1])
    scored = write(tmp_path / "b-s0", [3, 2, 1], {1: 0.1, 3: 0.3})
    assert len(learning_plots([[plain], []]).plots) == 1
    group = learning_plots([[plain], [scored]])
    loss, miou = group.plots
    assert [series.head for series in loss.series] == [0, 1]
    assert [series.head for series in miou.series] == [1]
    assert miou.series[0].marks[0][2] == "30.00"
    assert "seed" not in group.meaning
    again = write(tmp_path / "b-s1", [3, 2, 1])
    assert "lowest to the highest seed" in learning_plots([[plain], [scored, again]]).meaning


def test_runs_without_a_log_have_no_curve(tmp_path):
    assert learning_plots([[tmp_path / "imported"], []]) is None
