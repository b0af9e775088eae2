import math

import numpy as np
import pytest
import torch
from PIL import Image

from segnl.data.class_pixels import class_pixels
from segnl.losses.class_weight import class_weights
from segnl.runs.build import build_data
from segnl.runs.recipe import load_recipe


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
    weight = class_weights("enet", class_pixels(data))
    expected = [1 / math.log(1.02 + share) for share in (33 / 34, 1 / 34, 0.0)]
    torch.testing.assert_close(weight, torch.tensor(expected))


def test_median_frequency_weighs_the_median_class_1_and_an_absent_one_1(data):
    weight = class_weights("median_frequency", class_pixels(data))
    torch.testing.assert_close(weight, torch.tensor([17 / 33, 17.0, 1.0]))


def test_enet_sqrt_is_its_root(data):
    torch.testing.assert_close(
        class_weights("enet_sqrt", class_pixels(data)), class_weights("enet", class_pixels(data)).sqrt()
    )
