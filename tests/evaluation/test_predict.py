import pytest

from segnl.core.errors import ConfigError, DataError
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


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing.png", "no such file"), ("labels", "holds no images .* subfolders are not searched")],
)
def test_a_path_without_an_image_is_named(predictor, tmp_path, name, message):
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match=message):
        predict_files(predictor, [tmp_path / name], tmp_path / "out")


def test_every_image_of_a_folder_gets_its_masks(predictor, tiny_data, tmp_path):
    assert predict_files(predictor, [tiny_data / "images" / "val"], tmp_path / "out") == 3
    for kind in ("ids", "colour", "overlay"):
        assert len(list((tmp_path / "out" / kind).iterdir())) == 3
