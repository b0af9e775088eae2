import numpy as np
import pytest

from segnl.core.errors import DataError
from segnl.engine.build import build_data, build_model, device_of
from segnl.engine.evaluate import evaluate
from segnl.engine.predictor import Predictor
from segnl.engine.recipe import load_recipe


def scored(config, workers=0):
    recipe = load_recipe(config, [f"data.workers={workers}"])
    data = build_data(recipe, "val")
    predictor = Predictor(build_model(recipe, 3, is_new=True), recipe, data.table, device_of())
    seen = []
    confusion = evaluate(predictor, data, recipe=recipe, on_result=lambda sample, labels: seen.append((sample, labels)))
    return confusion, seen


def test_every_image_is_counted_once_at_its_own_size(tiny_config):
    confusion, seen = scored(tiny_config)
    matrix = np.zeros((3, 4), np.int64)
    for sample, labels in seen:
        for truth, predicted in zip(sample.label.ravel(), labels.numpy().ravel(), strict=True):
            if truth != 255:
                matrix[truth, predicted] += 1
    assert [sample.stem for sample, _ in seen] == ["frame0", "frame1", "frame2"]
    assert np.array_equal(confusion.matrix, matrix)


def test_workers_do_not_change_the_count(tiny_config):
    assert np.array_equal(scored(tiny_config, 0)[0].matrix, scored(tiny_config, 2)[0].matrix)


def test_a_damaged_image_is_an_error_and_never_skipped(tiny_config, tiny_data):
    path = tiny_data / "images" / "val" / "frame1.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"frame1\.png.*index 1"):
        scored(tiny_config)


def test_an_empty_split_is_an_error(tiny_config, tiny_data):
    for kind in ("images", "labels"):
        for path in (tiny_data / kind / "val").iterdir():
            path.unlink()
    with pytest.raises(DataError, match="no image files"):
        scored(tiny_config)
