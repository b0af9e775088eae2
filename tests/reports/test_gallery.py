import base64
import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image

from segnl.data.sample import Sample
from segnl.evaluation.evaluate_run import evaluate_run
from segnl.evaluation.evaluation import Evaluation
from segnl.reports import gallery as module
from segnl.reports.gallery import disagreements, gallery, most_telling, pack
from segnl.runs.run import open_run


@pytest.fixture(scope="module")
def shown_and_data(street_runs):
    shown = {run.name: evaluate_run(open_run(run)) for run in street_runs}
    return shown, open_run(street_runs[0]).open_data("val")


def unpack(text, hw):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(hw)


def test_packed_ids_unpack_unchanged():
    ids = np.random.default_rng(0).integers(0, 256, (7, 11)).astype(np.uint8)
    assert np.array_equal(unpack(pack(ids.T), (11, 7)), ids.T)  # rows of a view that lies the other way


def test_disagreement_is_the_fraction_of_labelled_pixels_with_different_predictions(shown_and_data):
    shown, data = shown_and_data
    found = disagreements(shown, data)
    for i in range(len(data)):
        label = data.read(i).label
        masks = [network.mask(i, data.table) for network in shown.values()]
        differs = sum(masks[0][y, x] != masks[1][y, x] for y, x in np.argwhere(label != 255))
        assert found[i] == pytest.approx(differs / (label != 255).sum())


def test_a_single_network_is_ranked_by_its_errors(shown_and_data):
    shown, data = shown_and_data
    assert np.array_equal(disagreements({"fcn": shown["fcn"]}, data), shown["fcn"].error_rate())


def test_a_gallery_shows_the_images_with_most_disagreement_first(shown_and_data):
    shown, data = shown_and_data
    found = gallery(shown, data, num_images=2)
    assert len(found["images"]) == 2
    assert found["available"] == 3
    differ = [image["differ"] for image in found["images"]]
    assert differ == sorted(differ, reverse=True)
    image = found["images"][0]
    i = data.sample_ids.index(image["id"])
    assert np.array_equal(unpack(image["label"], image["hw"]), data.read(i).label)
    assert np.array_equal(unpack(image["masks"][1], image["hw"]), shown["rcca"].mask(i, data.table))
    assert image["wrong"][0] == pytest.approx(shown["fcn"].error_rate()[i], abs=1e-5)
    assert found["heads"] == ["fcn", "rcca"]
    json.dumps(found, allow_nan=False)


def test_large_images_are_shrunk_without_new_ids(shown_and_data, monkeypatch):
    shown, data = shown_and_data
    monkeypatch.setattr(module, "MAX_WIDTH", 50)
    image = gallery(shown, data, num_images=1)["images"][0]
    assert image["hw"] == [25, 50]
    photo = Image.open(io.BytesIO(base64.b64decode(image["photo"].partition(",")[2])))
    assert photo.size == (50, 25)
    i = data.sample_ids.index(image["id"])
    assert set(np.unique(unpack(image["label"], (25, 50)))) <= set(np.unique(data.read(i).label))


@pytest.mark.parametrize("hw", [(700, 1), (20_000, 1), (70_000, 768), (1, 700)])
def test_a_very_tall_or_wide_image_has_pictures_of_bounded_size(shown_and_data, monkeypatch, hw):
    shown, data = shown_and_data
    sample = Sample(np.zeros((*hw, 3), np.uint8), np.zeros(hw, np.uint8), "tall")
    monkeypatch.setattr(data, "read", lambda i: sample)
    monkeypatch.setattr(Evaluation, "mask", lambda *_: sample.label)
    monkeypatch.setattr(data, "ambiguous_mask", lambda i: sample.label)
    image = module._image(shown, data, 0)
    assert image["hw"] == [*min(hw, (6144, 67 if hw == (70_000, 768) else 1))]
    for name, width in (("photo", 768), ("thumb", 112)):
        assert max(Image.open(io.BytesIO(base64.b64decode(image[name].partition(",")[2]))).size) <= 8 * width


def test_the_first_images_of_every_order_are_chosen_before_the_second_of_any():
    differ = np.array([0.9, 0.8, 0.0, 0.0, 0.0, 0.0])
    wrong = np.array([[0.5, 0.4, 0.9, 0.9, 0.0, np.nan], [0.5, 0.4, 0.9, 0.0, 0.8, np.nan]])
    # Disagreement: 0, 1, ...; errors of both: 2, 0, ...; gain of the second: 3; of the first: 4.
    assert most_telling(differ, wrong, 4) == [0, 2, 3, 4]
    assert most_telling(differ, wrong, 5)[4] == 1
    assert sorted(most_telling(differ, wrong, 99)) == [0, 1, 2, 3, 4, 5]
    assert most_telling(differ, wrong, 0) == []
    assert most_telling(wrong[0], wrong[:1], 2) == [2, 3]
