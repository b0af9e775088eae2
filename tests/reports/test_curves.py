import io
import json

import numpy as np
import pytest
from PIL import Image

from segnl.cli.main import main
from segnl.core.errors import ConfigError
from segnl.reports.curves import Curve, curves, names_of, picture, read_curve, smoothed, spread


def write_log(folder, lines):
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def step(number, loss=1.0):
    return {"step": number, "loss": loss, "lr": 0.01}


def test_a_step_taken_again_counts_once_as_last_logged(tmp_path):
    lines = [{"event": "start", "step": 0}, step(1, 9.0), step(2, 8.0), {"event": "start", "step": 1}, step(2, 7.0)]
    lines += [{"event": "eval", "step": 2, "miou": 0.5}, {"event": "eval", "step": 3, "miou": None}]
    curve = read_curve(write_log(tmp_path / "a", lines), "a")
    assert curve.steps.tolist() == [1, 2]
    assert curve.loss.tolist() == [9.0, 7.0]
    assert (curve.eval_steps.tolist(), curve.miou.tolist()) == ([2], [0.5])


def test_smoothing_is_a_mean_over_the_neighbours_that_there_are():
    values = np.array([1.0, 5.0, 2.0, 8.0, 3.0, 7.0, 4.0])
    loop = []
    for i in range(7):
        window = [values[j] for j in range(7) if abs(i - j) <= 2]
        loop.append(sum(window) / len(window))
    np.testing.assert_allclose(smoothed(values, 5), loop, rtol=1e-12)
    np.testing.assert_array_equal(smoothed(values, 1), values)


def test_runs_of_one_name_are_told_apart_by_their_parents(tmp_path):
    assert names_of([tmp_path / "a" / "s0", tmp_path / "b" / "s0"]) == ["a/s0", "b/s0"]
    assert names_of([tmp_path / "x", tmp_path / "y"]) == ["x", "y"]
    with pytest.raises(ConfigError, match="stands twice"):
        names_of([tmp_path / "x", tmp_path / "y" / ".." / "x"])


def test_numbers_beside_the_curves_stand_apart_and_near_their_curves():
    assert spread([10.0, 30.0, 31.0, 90.0], 3.0) == [10.0, 29.0, 32.0, 90.0]
    assert spread([5.0], 3.0) == [5.0]
    moved = spread([1.0, 1.0, 1.0, 4.0], 3.0)  # three make room for themselves, and so for the fourth
    np.testing.assert_allclose(np.diff(moved), 3.0)
    assert np.mean(moved) == pytest.approx(np.mean([1.0, 1.0, 1.0, 4.0]))


def colours_in(png):
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)
    return {tuple(colour) for colour in np.unique(pixels, axis=0).tolist()}


def curve(name, *, loss=1.0, miou=()):
    steps = np.arange(1.0, 41.0)
    at = np.linspace(10, 40, len(miou))
    return Curve(name, steps, np.full(40, loss), np.linspace(0.01, 0, 40), at, np.array(miou))


def test_every_run_shows_in_its_colour():
    found = colours_in(picture([curve("a", loss=1.0, miou=[0.2, 0.4]), curve("b", loss=2.0, miou=[0.1, 0.5])]))
    assert (0x00, 0x72, 0xB2) in found
    assert (0xD5, 0x5E, 0x00) in found
    assert (0x00, 0x9E, 0x73) not in found


def test_the_command_draws_runs_with_and_without_validation(tmp_path, capsys):
    with_miou = write_log(tmp_path / "a", [step(1), step(2), {"event": "eval", "step": 2, "miou": 0.3}])
    without = write_log(tmp_path / "b", [step(1)])
    out = tmp_path / "curves.png"
    assert main(["curves", str(with_miou), str(without), "--out", str(out)]) == 0
    assert "2 runs, 1 with validations" in capsys.readouterr().out
    assert Image.open(out).size[0] > 1000
    assert main(["curves", str(without), "--out", str(tmp_path / "b.svg")]) == 0
    assert (tmp_path / "b.svg").read_text().startswith("<?xml")


def test_what_is_no_run_or_no_picture_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no log\.jsonl with a training step"):
        curves([tmp_path], tmp_path / "x.png")
    with pytest.raises(ConfigError, match=r"ends with \.jpg; expected \.png"):
        curves([tmp_path], tmp_path / "x.jpg")
