import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from segnl.cli.main import main
from segnl.core.errors import ConfigError
from segnl.reports.chart_style import MARKS
from segnl.reports.learning_curves import (
    MAX_POINTS,
    Curve,
    _late_loss,
    _points,
    curves_figure,
    distinct_names,
    learning_plots,
    read_curve,
    smoothed,
    write_curves,
)


def write_log(folder, lines):
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def step(number, loss=1.0):
    return {"step": number, "loss": loss, "lr": 0.01}


def test_a_repeated_step_counts_once_as_last_logged(tmp_path):
    lines = [{"event": "start", "step": 0}, step(1, 9.0), step(2, 8.0), {"event": "start", "step": 1}, step(2, 7.0)]
    lines += [{"event": "eval", "step": 2, "miou": 0.5}, {"event": "eval", "step": 3, "miou": None}]
    curve = read_curve(write_log(tmp_path / "a", lines), "a")
    assert curve.steps.tolist() == [1, 2]
    assert curve.loss.tolist() == [9.0, 7.0]
    assert (curve.eval_steps.tolist(), curve.miou.tolist()) == ([2], [0.5])


def test_smoothing_is_a_mean_over_the_available_neighbours():
    values = np.array([1.0, 5.0, 2.0, 8.0, 3.0, 7.0, 4.0])
    loop = []
    for i in range(7):
        window = [values[j] for j in range(7) if abs(i - j) <= 2]
        loop.append(sum(window) / len(window))
    np.testing.assert_allclose(smoothed(values, 5), loop, rtol=1e-12)
    np.testing.assert_array_equal(smoothed(values, 1), values)


def test_runs_of_one_name_are_told_apart_by_their_parents(tmp_path):
    assert distinct_names([tmp_path / "a" / "s0", tmp_path / "b" / "s0"]) == ["a/s0", "b/s0"]
    assert distinct_names([tmp_path / "x", tmp_path / "y"]) == ["x", "y"]
    with pytest.raises(ConfigError, match="given twice"):
        distinct_names([tmp_path / "x", tmp_path / "y" / ".." / "x"])


def colours_in(png):
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)
    return {tuple(colour) for colour in np.unique(pixels, axis=0).tolist()}


def curve(name, *, loss=1.0, miou=()):
    steps = np.arange(1.0, 41.0)
    at = np.linspace(10, 40, len(miou))
    return Curve(
        name, steps, np.full(40, loss), np.linspace(0.01, 0, 40), at, np.array(miou), np.full(len(miou), np.nan)
    )


def test_every_run_is_drawn_in_its_colour():
    colours = colours_in(curves_figure([curve("a", loss=1.0, miou=[0.2, 0.4]), curve("b", loss=2.0, miou=[0.1, 0.5])]))
    assert [tuple(bytes.fromhex(mark.colour[1:])) in colours for mark in MARKS[:3]] == [True, True, False]


def test_a_run_whose_name_begins_with_an_underscore_is_in_the_legend():
    assert b"<!-- _a, last mIoU 20.0 % -->" in curves_figure([curve("_a", miou=[0.2])], kind="svg").replace(
        b"  _", b" _"
    )


def test_the_validation_loss_is_drawn_beside_the_training_loss():
    own = curve("a", miou=[0.2, 0.4])
    drawn = replace(own, eval_loss=np.array([1.5, 0.5]))
    assert curves_figure([drawn]) != curves_figure([own])
    far_away = replace(own, eval_loss=np.array([1e6, np.nan]))  # leaves the training loss visible
    assert curves_figure([far_away]) != curves_figure([drawn])


def test_the_command_draws_runs_with_and_without_validation(tmp_path, capsys):
    with_miou = write_log(tmp_path / "a", [step(1), step(2), {"event": "eval", "step": 2, "miou": 0.3}])
    without = write_log(tmp_path / "b", [step(1)])
    out = tmp_path / "curves.png"
    assert main(["curves", str(with_miou), str(without), "--out", str(out)]) == 0
    assert "2 runs, 1 with validations" in capsys.readouterr().out
    assert Image.open(out).size[0] > 1000
    assert main(["curves", str(without), "--out", str(tmp_path / "b.svg")]) == 0
    assert (tmp_path / "b.svg").read_text().startswith("<?xml")


def test_a_folder_that_is_no_run_and_another_suffix_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no log\.jsonl with a training step"):
        write_curves([tmp_path], tmp_path / "x.png")
    with pytest.raises(ConfigError, match=r"ends with \.jpg; expected \.png"):
        write_curves([tmp_path], tmp_path / "x.jpg")


def write_run(folder, losses, miou=None):
    folder.mkdir(parents=True)
    lines = [{"step": step, "loss": loss, "lr": 0.1} for step, loss in enumerate(losses, start=1)]
    lines += [{"event": "eval", "step": step, "miou": value} for step, value in (miou or {}).items()]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_line_is_the_mean_over_seeds_and_its_band_their_range():
    steps = np.array([1.0, 2.0, 4.0])
    runs = [(steps, np.array([1.0, 2.0, 4.0])), (np.array([1.0, 4.0]), np.array([3.0, 9.0]))]
    points = _points(2, runs)
    assert points.head == 2
    assert points.x.tolist() == [1, 2, 4]
    assert points.y.tolist() == [2, 3.5, 6.5]  # the second run's loss at step 2 lies between its logged ones
    assert (points.low.tolist(), points.high.tolist()) == ([1, 2, 4], [3, 5, 9])


def test_the_first_tenth_is_left_out_and_long_runs_are_thinned(tmp_path):
    curve = read_curve(write_run(tmp_path / "long", np.linspace(9, 1, 1000)), "long")
    steps, loss = _late_loss(curve)
    assert steps[0] == 100
    thinned = _points(0, [(steps, loss)])
    assert thinned.x.size == MAX_POINTS
    assert thinned.x[[0, -1]].tolist() == [100, 1000]
    inner = slice(1, -2)  # at the ends fewer values are averaged
    assert thinned.y[inner] == pytest.approx(
        np.interp(thinned.x[inner], np.arange(1, 1001), np.linspace(9, 1, 1000)), abs=0.05
    )


def test_validations_have_a_plot_of_their_own_where_there_are_any(tmp_path):
    plain = write_run(tmp_path / "a-s0", [3, 2, 1])
    scored = write_run(tmp_path / "b-s0", [3, 2, 1], {1: 0.1, 3: 0.3})
    assert len(learning_plots([[plain], []]).plots) == 1
    group = learning_plots([[plain], [scored]])
    loss, miou = group.plots
    assert [series.head for series in loss.series] == [0, 1]
    assert [series.head for series in miou.series] == [1]
    assert miou.series[0].marks[0][2] == "30.00"
    assert "seed" not in group.meaning
    again = write_run(tmp_path / "b-s1", [3, 2, 1])
    assert "lowest to the highest seed" in learning_plots([[plain], [scored, again]]).meaning


def test_runs_without_a_log_have_no_curve(tmp_path):
    assert learning_plots([[tmp_path / "imported"], []]) is None
    (tmp_path / "log.jsonl").write_text('{"event": "start", "step": 0}\n')  # begun anew after its log was lost
    assert learning_plots([[tmp_path], []]) is None


@pytest.mark.parametrize("loss", ["NaN", "Infinity", "-Infinity", "1e308", "1" + "0" * 400])
@pytest.mark.parametrize("step", ["3", "1" + "0" * 400])
def test_a_log_of_numbers_that_cannot_be_drawn_is_drawn_without_them(tmp_path, loss, step):
    """As of a training that left the finite numbers, and of a log that somebody made."""
    run = write_log(tmp_path / "run", [{"step": n, "loss": 1.0 / n, "lr": 0.1} for n in (1, 2)])
    with (run / "log.jsonl").open("a") as file:
        file.write(f'{{"step": {step}, "loss": {loss}, "lr": {loss}}}\n')
        file.write(f'{{"event": "eval", "split": "val", "step": {step}, "miou": {loss}, "loss": {loss}}}\n')
    write_curves([run], tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_in_place_of_a_run_is_said(tmp_path):
    (tmp_path / "best.safetensors").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"best\.safetensors: is a file; give a run's folder"):
        write_curves([tmp_path / "best.safetensors"], tmp_path / "c.png")
