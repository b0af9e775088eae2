import shutil

import pytest
from PIL import Image

from segnl.cli.main import main
from segnl.core.errors import ConfigError
from segnl.reports.contact_sheet import GAP, HEADER
from segnl.reports.inspect_runs import inspect_runs
from segnl.runs.run import open_run


def test_a_page_and_a_sheet_for_two_runs(street_runs, tmp_path):
    text = inspect_runs(street_runs, tmp_path / "out", num_images=2)
    assert "2 images, 2 networks" in text
    text = (tmp_path / "out" / "report.html").read_text()
    assert "fcn, rcca" in text
    assert "Pixel accuracy %" in text
    assert "Ambiguous pairs" in text
    assert "Where context helps" in text
    assert (tmp_path / "out" / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_the_sheet_has_as_many_rows_as_asked_for(street_runs, tmp_path):
    heights = []
    for rows in (1, 3):
        inspect_runs(street_runs, tmp_path / str(rows), sheet=rows)
        heights.append(Image.open(tmp_path / str(rows) / "sheet.png").height - HEADER)
    row = 160 + GAP  # of streets twice as wide as high
    assert all(0 < height - rows * row < row for rows, height in zip((1, 3), heights, strict=True))  # and the key


@pytest.mark.parametrize("option", ["--images", "--sheet"])
def test_no_image_at_all_is_refused(street_runs, tmp_path, option, capsys):
    assert main(["inspect", "--checkpoint", str(street_runs[0]), "--out", str(tmp_path / "out"), option, "0"]) == 2
    assert f"{option}: 0; expected 1 to" in capsys.readouterr().err


def test_one_run_alone_is_shown_by_its_errors(street_runs, tmp_path):
    inspect_runs(street_runs[:1], tmp_path)
    assert "Images with most errors come first" in (tmp_path / "report.html").read_text()


def test_runs_of_the_same_name_are_told_apart_by_their_folders(street_runs, tmp_path):
    for study in ("one", "two"):
        shutil.copytree(street_runs[0], tmp_path / study / "fcn")
    inspect_runs([tmp_path / "one" / "fcn", tmp_path / "two" / "fcn"], tmp_path / "out")
    assert "one/fcn, two/fcn" in (tmp_path / "out" / "report.html").read_text()


def test_a_run_named_twice_is_refused(street_runs, tmp_path):
    with pytest.raises(ConfigError, match="given twice"):
        inspect_runs([street_runs[0], street_runs[0]], tmp_path)


def test_runs_of_different_data_sets_are_refused(street_runs, tiny_config, tmp_path):
    from segnl.runs.recipe import load_recipe
    from segnl.training.fit import fit

    fit(load_recipe(tiny_config, ["train.max_steps=1"]), tmp_path / "tiny_run")
    with pytest.raises(ConfigError, match="other images or classes"):
        inspect_runs([street_runs[0], tmp_path / "tiny_run"], tmp_path / "out")


def test_runs_of_other_images_under_the_same_names_are_refused(street_runs, tmp_path):
    """Another seed of the streets: the same names, sizes and classes, other streets."""
    from segnl.runs.recipe import load_recipe
    from segnl.streets.files import generate
    from segnl.training.fit import fit

    generate(tmp_path / "streets", num_train=4, num_val=3, hw=(64, 128), seed=1)
    config = street_runs[0].parent / "fcn.yaml"
    fit(load_recipe(config, [f"data.root={tmp_path / 'streets'}"]), tmp_path / "fcn")
    with pytest.raises(ConfigError, match="other images or classes"):
        inspect_runs([street_runs[1], tmp_path / "fcn"], tmp_path / "out")


def test_a_pixel_is_drawn_with_every_network(street_runs, tmp_path, capsys):
    runs = list(map(str, street_runs))
    command = ["inspect", "--checkpoint", *runs, "--out", str(tmp_path), "--images", "1", "--attention-images", "0"]
    sample_id = open_run(street_runs[0]).open_data("val").sample_ids[2]
    assert main([*command, "--attention", "30,100", "--image", sample_id]) == 0
    assert f"where pixel 30,100 of {sample_id} looks" in capsys.readouterr().out
    picture = Image.open(tmp_path / "attention.png")
    assert picture.width > 5 * 320  # the image, rcca's three measures and the receptive fields
    assert not (tmp_path / "attention.json").exists()
    assert 'id="attention"' not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attention", "64,0"], "--attention 64,0: outside"),
        (["--attention", "64"], "--attention 64: expected ROW,COLUMN"),
        (["--attention", "3,9", "--image", "nowhere"], "--image nowhere: no such image"),
        (["--image", "nowhere"], "--image nowhere: needs --attention"),
        (["--attention-images", "-1"], "--attention-images: -1; expected 0 to 100"),
    ],
)
def test_a_pixel_or_an_image_that_is_not_there_is_refused(street_runs, tmp_path, capsys, options, message):
    command = ["inspect", "--checkpoint", str(street_runs[1]), "--out", str(tmp_path / "out"), "--images", "1"]
    options = options if "--attention-images" in options else [*options, "--attention-images", "0"]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err


def test_the_page_has_attention_by_default(street_runs, tmp_path):
    inspect_runs(street_runs, tmp_path, num_images=1, sheet=1)
    text = (tmp_path / "report.html").read_text()
    assert "Attention: where a pixel looks" in text
    assert '"all hops"' in text
    assert (tmp_path / "attention.json").exists()
