import numpy as np
from PIL import Image

from segnl.data.label_counts import class_pixels
from segnl.runs.build import build_data
from segnl.runs.recipe import load_recipe


def test_pixels_are_counted_over_the_whole_split_without_void(tiny_config, tiny_data):
    """Five labels of 37x53: one row of sky and the rest road, the third class nowhere, three rows of void."""
    for path in (tiny_data / "labels" / "train").iterdir():
        label = np.zeros((37, 53), np.uint8)
        label[:3] = 9
        label[3] = 1
        Image.fromarray(label).save(path)
    assert class_pixels(build_data(load_recipe(tiny_config), "train")).tolist() == [5 * 33 * 53, 5 * 53, 0]
