import os

import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import ConfigError, DataError, MachineError
from segnl.evaluation.predict import predict_files
from segnl.evaluation.predictor import Predictor
from segnl.runs.build import build_data, build_model, device_of
from segnl.runs.recipe import load_recipe


@pytest.fixture
def predictor(tiny_config):
    recipe = load_recipe(tiny_config)
    table = build_data(recipe, "val").table
    return Predictor(build_model(recipe, 3, is_new=True), recipe, table, device_of())


def test_two_images_of_one_name_would_overwrite_each_other_and_are_refused(predictor, tiny_data, tmp_path):
    images = [tiny_data / "images" / split / "frame0.png" for split in ("train", "val")]
    with pytest.raises(ConfigError, match="would overwrite"):
        predict_files(predictor, images, tmp_path / "out")


def test_a_folder_that_is_called_like_the_mask_of_an_image_is_refused(predictor, tiny_data, tmp_path):
    (tmp_path / "in" / "a.png").mkdir(parents=True)
    for name in ("a.jpg", "a.png/b.png"):
        (tmp_path / "in" / name).write_bytes((tiny_data / "images" / "val" / "frame0.png").read_bytes())
    with pytest.raises(ConfigError, match=r"in/a\.jpg: its mask a\.png would have the name of a folder of masks"):
        predict_files(predictor, [tmp_path / "in"], tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing.png", "no such file"), ("labels", r"holds no images; expected \*\.jpg")],
)
def test_a_path_without_an_image_is_named(predictor, tmp_path, name, message):
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match=message):
        predict_files(predictor, [tmp_path / name], tmp_path / "out")


def test_every_image_of_a_folder_gets_its_masks(predictor, tiny_data, tmp_path):
    assert predict_files(predictor, [tiny_data / "images" / "val"], tmp_path / "out") == 3
    for kind in ("ids", "colour", "overlay"):
        assert len(list((tmp_path / "out" / kind).iterdir())) == 3


def test_sub_folders_are_kept_and_a_file_that_is_named_twice_is_one_image(predictor, tiny_data, tmp_path, caplog):
    folder = tmp_path / "mine"
    (folder / "a").mkdir(parents=True)
    image = Image.open(tiny_data / "images/val/frame0.png")
    for name in ("x.png", "a/x.gif", "a/y.jfif", "z.jp2"):
        image.convert("RGB").save(folder / name, "JPEG" if name.endswith("jfif") else None)
    (folder / "notes.txt").write_text("mine")
    assert predict_files(predictor, [folder, folder / "x.png"], tmp_path / "out") == 4
    ids = sorted(str(path.relative_to(tmp_path / "out/ids")) for path in (tmp_path / "out/ids").rglob("*.png"))
    assert ids == ["a/x.png", "a/y.png", "x.png", "z.png"]
    assert "leaves out what is no image (files: 1): notes.txt" in caplog.text


def test_a_deep_image_is_read_as_the_recipe_asks(predictor, tmp_path):
    Image.fromarray(np.full((37, 53), 4095, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        predict_files(predictor, [tmp_path / "deep.png"], tmp_path / "out")
    data = predictor.recipe.data.model_copy(update={"value_range": (0.0, 4095.0)})
    recipe = predictor.recipe.model_copy(update={"data": data})
    asked = Predictor(predictor.model, recipe, predictor.class_table, predictor.device)
    assert predict_files(asked, [tmp_path / "deep.png"], tmp_path / "out") == 1


def test_a_mask_does_not_replace_the_image_that_it_is_predicted_from(predictor, tiny_data, tmp_path):
    (tmp_path / "mine" / "ids").mkdir(parents=True)
    image = tmp_path / "mine" / "ids" / "a.png"
    image.write_bytes((tiny_data / "images/val/frame0.png").read_bytes())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").symlink_to(image)
    for given in (image, image.parent, tmp_path / "elsewhere"):
        before = image.read_bytes()
        with pytest.raises(ConfigError, match=r"a\.png: exists and was not written by segnl predict"):
            predict_files(predictor, [given], tmp_path / "mine")
        assert image.read_bytes() == before


def test_an_image_for_which_memory_does_not_suffice_is_named(predictor, tiny_data, tmp_path, monkeypatch):
    def fail(image):
        raise MemoryError("5 GiB")

    monkeypatch.setattr(predictor, "predict", fail)
    with pytest.raises(MachineError, match=r"frame0\.png: 37x53 pixels: out of memory"):
        predict_files(predictor, [tiny_data / "images/val/frame0.png"], tmp_path / "out")


def test_a_pipe_is_not_called_missing(predictor, tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match="is a pipe or a device"):
        predict_files(predictor, [tmp_path / "a.png"], tmp_path / "out")
