import math

import numpy as np
import pytest
import torch
from PIL import Image

from segnl.engine.build import build_data
from segnl.engine.class_weight import class_pixels, class_weight_of
from segnl.engine.recipe import load_recipe


@pytest.fixture
def data(tiny_config, tiny_data):
    """Five labels of 37x53: one row of sky and the rest road, the third class nowhere, three rows of void."""
    for path in (tiny_data / "labels" / "train").iterdir():
        label = np.zeros((37, 53), np.uint8)
        label[:3] = 9
        label[3] = 1
        Image.fromarray(label).save(path)
    return build_data(load_recipe(tiny_config), "train")


def test_pixels_are_counted_over_the_whole_split_without_void(data):
    assert class_pixels(data).tolist() == [5 * 33 * 53, 5 * 53, 0]


def test_enet_is_the_papers_formula(data):
    weight = class_weight_of("enet", data)
    expected = [1 / math.log(1.02 + share) for share in (33 / 34, 1 / 34, 0.0)]
    torch.testing.assert_close(weight, torch.tensor(expected))


def test_median_frequency_weighs_the_median_class_1_and_an_absent_one_1(data):
    weight = class_weight_of("median_frequency", data)
    torch.testing.assert_close(weight, torch.tensor([17 / 33, 17.0, 1.0]))


def test_nothing_is_read_where_nothing_is_balanced(data, tiny_data):
    for path in (tiny_data / "labels" / "train").iterdir():
        path.unlink()
    assert class_weight_of(None, data) is None


def test_enet_sqrt_is_its_root(data):
    torch.testing.assert_close(class_weight_of("enet_sqrt", data), class_weight_of("enet", data).sqrt())
