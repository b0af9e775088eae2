import numpy as np
import pytest
from PIL import Image

from segnl.cli.main import main
from segnl.reports import chart_style, run_pictures
from segnl.reports.run_pictures import CAPTIONS, class_bars, confusion_figure


@pytest.fixture
def trained(tiny_config, tmp_path, monkeypatch):
    """A run trained by the command line, with pictures."""
    monkeypatch.chdir(tmp_path)

    def train(*overrides: str):
        sets = [word for override in ("train.pictures=true", *overrides) for word in ("--set", override)]
        assert main(["train", "--config", str(tiny_config), "--run", "mine", *sets]) == 0
        return tmp_path / "checkpoints" / "mine"

    return train


def test_a_finished_run_has_every_picture_on_one_page(trained, capsys):
    run = trained("train.eval_every=3")
    page = (run / "report.html").read_text()
    for name in CAPTIONS:
        assert f'src="pictures/{name}"' in page
        assert min(Image.open(run / "pictures" / name).size) > 100
    assert "mine: 6 steps" in page
    assert "checkpoints/mine/report.html: curves" in capsys.readouterr().out


def test_a_page_that_another_command_wrote_stays(trained, caplog):
    run = trained()
    trained()  # replaces its own
    assert "no pictures" not in caplog.text
    for name in ("report.html", "pictures/iou.png"):
        before = (run / name).read_bytes()
        (run / name).write_bytes(b"precious")
        trained()
        assert (run / name).read_bytes() == b"precious"
        assert f"no pictures: checkpoints/mine/{name}: exists and was not written by segnl train" in caplog.text
        (run / name).write_bytes(before)


def test_a_run_without_validation_split_gets_the_other_pictures(trained, tiny_data):
    for kind in ("images", "labels"):
        (tiny_data / kind / "val").rename(tiny_data / kind / "test")
    run = trained("train.eval_every=null")
    drawn = {path.name for path in (run / "pictures").iterdir()}
    assert drawn == {"curves.png", "training_crops.png", "classes.png"}


def test_an_error_of_the_pictures_is_a_warning_and_the_run_is_done(trained, tiny_data, capsys):
    for path in (tiny_data / "labels" / "val").iterdir():
        path.write_bytes(b"damaged")
    run = trained("train.eval_every=null")
    assert (run / "step-00000006.safetensors").exists()
    assert "segnl: warning: no pictures: " in capsys.readouterr().err


def test_many_classes_and_undefined_values_are_drawn():
    names = [f"class {k}" for k in range(150)]
    values = np.where(np.arange(150) % 3 == 0, np.nan, 50.0)
    assert class_bars(names, values, "IoU (%)").startswith(b"\x89PNG")
    assert confusion_figure(np.zeros((150, 150), np.int64), names).startswith(b"\x89PNG")


def test_ticks_of_a_logarithmic_axis_are_plain_numbers(monkeypatch):
    monkeypatch.setattr(run_pictures, "figure_bytes", lambda figure: chart_style.figure_bytes(figure, "svg"))
    picture = run_pictures.class_bars(["a", "b"], np.array([2e6, 3e7]), "pixels", is_log=True)
    assert b"mathdefault" not in picture
    assert b"10,000,000" in picture
