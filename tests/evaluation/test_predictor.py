import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from segnl.core.errors import CheckpointError, DataError, NonFiniteError
from segnl.evaluation.evaluate import evaluate
from segnl.evaluation.predict import predict_files
from segnl.evaluation.predictor import Predictor, load
from segnl.labels.table import ClassTable
from segnl.runs.build import build_data, build_model
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


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_an_error_and_no_classes(tiny_config, tmp_path, value):
    one = predictor(tiny_config)
    one.model.classifier.bias.data[1] = value
    with pytest.raises(NonFiniteError, match="outputs are NaN or infinite"):
        one.predict(IMAGE)
    data = build_data(load_recipe(tiny_config), "val")
    with pytest.raises(NonFiniteError, match="frame0: the network's outputs"):
        evaluate(one, data)
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    with pytest.raises(NonFiniteError, match=r"a\.png: the network's outputs"):
        predict_files(one, [tmp_path / "a.png"], tmp_path / "out")


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


@pytest.mark.parametrize("image", [IMAGE[..., 0], IMAGE.astype(np.float32), IMAGE[..., :2], [IMAGE.tolist()] * 2])
def test_what_is_no_rgb_image_is_refused(tiny_config, image):
    with pytest.raises(ValueError, match="expected uint8 `H W 3`"):
        predictor(tiny_config).predict(image)


def test_every_kind_of_image_gives_the_same_prediction(tiny_config, tmp_path):
    one, expected = predictor(tiny_config), predictor(tiny_config).predict(IMAGE)
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    tensor = torch.from_numpy(IMAGE).permute(2, 0, 1)
    for image in (Image.fromarray(IMAGE), tensor, tmp_path / "image.png", str(tmp_path / "image.png")):
        assert np.array_equal(one.predict(image), expected)


@pytest.mark.parametrize("overrides", [(), ("eval.mode=slide", "eval.window_hw=[24, 32]", "eval.stride_hw=[16, 20]")])
def test_a_list_of_images_is_predicted_in_batches_of_one_size(tiny_config, overrides):
    one = predictor(tiny_config, "eval.batch_size=2", *overrides)
    images = [IMAGE, IMAGE[::-1], IMAGE[:, ::-1], IMAGE[:21], IMAGE[:21, ::-1]]
    batch_sizes = []
    one.model.backbone.register_forward_pre_hook(lambda _, args: batch_sizes.append(len(args[0])))
    together = one.predict(images, probabilities=True)
    if not overrides:
        assert batch_sizes == [2, 1, 2]
    for image, probabilities in zip(images, together, strict=True):
        # A batch of another size may pass through other kernels, which sum in another order.
        np.testing.assert_allclose(probabilities, one.predict(image, probabilities=True), rtol=1e-4, atol=1e-6)
    assert one.predict([]) == []


@pytest.mark.parametrize("overrides", [(), ("eval.flip=true", "eval.scales=[1.0, 1.5]")])
def test_probabilities_are_the_softmax_of_one_view_or_the_mean_of_several(tiny_config, overrides):
    one = predictor(tiny_config, *overrides)
    probabilities = one.predict(IMAGE, probabilities=True)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(0), np.ones((37, 53)), rtol=1e-5)
    assert np.array_equal(probabilities.argmax(0), one.predict(IMAGE))
    if not overrides:
        np.testing.assert_allclose(probabilities, by_hand(one.model, (37, 53)).softmax(1)[0], rtol=1e-4, atol=1e-6)


def test_an_image_that_is_not_8_bits_rgb_is_one_line(tiny_config, tmp_path):
    one = predictor(tiny_config)
    with pytest.raises(DataError, match=r"image: image of more than 8 bits a channel; expected 8 bits a channel"):
        one.predict(Image.fromarray(IMAGE[..., 0].astype(np.float32)))
    with pytest.raises(DataError, match=r"nothing\.png: no such file"):
        one.predict(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="a tensor: `3 H W`"):
        one.predict(torch.from_numpy(IMAGE))


def test_loading_nothing_is_a_checkpoint_fault(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path / "nothing")
