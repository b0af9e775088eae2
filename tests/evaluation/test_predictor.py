import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segnl.core.errors import CheckpointError
from segnl.evaluation.predictor import Predictor, load
from segnl.labels.table import ClassTable
from segnl.runs.build import build_model
from segnl.runs.recipe import load_recipe

TABLE = ClassTable(["road", "sky", "tree"], np.zeros((3, 3)))
IMAGE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


def predictor(config, *overrides):
    recipe = load_recipe(config, overrides)
    return Predictor(build_model(recipe, 3, is_new=True), recipe, TABLE, torch.device("cpu"))


def by_hand(model, hw):
    """Normalised at a size, the network, upsampled to the image's size."""
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    image = (torch.from_numpy(IMAGE).permute(2, 0, 1).float() - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    image = F.interpolate(image[None], size=hw, mode="bilinear", align_corners=False)
    with torch.no_grad():
        return F.interpolate(model.eval()(image).main, size=(37, 53), mode="bilinear", align_corners=False)


def test_whole_is_the_network_at_the_images_size(tiny_config):
    one = predictor(tiny_config)
    assert np.array_equal(one.predict(IMAGE), by_hand(one.model, (37, 53)).argmax(1)[0].numpy())


def test_eval_scales_and_the_short_side_set_the_networks_input(tiny_config):
    one = predictor(tiny_config, "eval.scales=[0.5]", "data.short_side_px=74")
    assert np.array_equal(one.predict(IMAGE), by_hand(one.model, (37, 53)).argmax(1)[0].numpy())


def test_scales_are_averaged_as_probabilities(tiny_config):
    one = predictor(tiny_config, "eval.scales=[1.0, 1.5]")
    mean = by_hand(one.model, (37, 53)).softmax(1) + by_hand(one.model, (56, 80)).softmax(1)
    assert np.array_equal(one.predict(IMAGE), mean.argmax(1)[0].numpy())


def test_a_sliding_window_covers_an_image_larger_than_it(tiny_config):
    one = predictor(tiny_config, "eval.mode=slide", "eval.window_hw=[24, 32]", "eval.stride_hw=[16, 20]")
    assert one.predict(IMAGE).shape == (37, 53)


@pytest.mark.parametrize("image", [IMAGE[..., 0], IMAGE.astype(np.float32), IMAGE[..., :2]])
def test_what_is_no_rgb_image_is_refused(tiny_config, image):
    with pytest.raises(ValueError, match="expected uint8 `H W 3`"):
        predictor(tiny_config).predict(image)


def test_loading_nothing_is_a_checkpoint_fault(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path / "nothing")
