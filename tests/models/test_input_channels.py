"""Networks for images of other numbers of bands than RGB's three."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import segnl
from segnl.core.errors import ConfigError, DataError
from segnl.evaluation.evaluate_run import evaluate_run
from segnl.evaluation.predict import predict_files
from segnl.evaluation.predictor import load
from segnl.models.input import InputConfig, Normalise, first_convolution, widened
from segnl.models.segmenter import ModelConfig, Segmenter, new_segmenter
from segnl.runs.build import build_data
from segnl.runs.recipe import load_recipe
from segnl.runs.run import open_run
from segnl.training.fit import fit

FOUR = {"channels": 4, "mean": (1.0, 2.0, 3.0, 4.0), "std": (1.0, 1.0, 1.0, 2.0)}


def config(name: str = "resnet", **settings: object) -> ModelConfig:
    sizes = {"depth": None, "block": "basic", "blocks": (1, 1, 1, 1), "width": 0.125, "output_stride": 8}
    backbone = {"name": name, "weights": None} | (sizes if name == "resnet" else {})
    return ModelConfig.model_validate(
        {"backbone": backbone, "head": {"name": "fcn", "channels": 8}, "aux": None, **settings}
    )


def test_every_band_has_a_mean_and_a_std_of_its_own():
    image = torch.arange(4, dtype=torch.uint8).view(1, 4, 1, 1).repeat(1, 1, 3, 5) * 7
    expected = [(0 - 1) / 1, (7 - 2) / 1, (14 - 3) / 1, (21 - 4) / 2]
    for layout in (torch.contiguous_format, torch.channels_last):
        out = Normalise(InputConfig(**FOUR))(image.contiguous(memory_format=layout))
        assert out[0, :, 2, 4].tolist() == expected
    with pytest.raises(ValueError, match="expected `b 4 H W`"):
        Normalise(InputConfig(**FOUR))(image[:, :3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"channels": 4}, "mean: has 3 numbers; expected one for each of 4"), ({**FOUR, "order": "bgr"}, "bgr needs 3")],
)
def test_settings_at_odds_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        InputConfig(**settings)


def test_widened_weights_agree_with_loops_over_channels():
    weight = torch.randn(2, 3, 3, 5)
    for name in ("repeat", "mean", "zero"):
        torch.testing.assert_close(widened(weight, 1, name)[:, 0], weight[:, 0] + weight[:, 1] + weight[:, 2])
        for channels in (2, 4):
            wide = widened(weight, channels, name)
            for c in range(channels):
                expected = {
                    "repeat": weight[:, c % 3] * 3 / channels,
                    "mean": sum(weight[:, i] for i in range(3)) / channels,
                    "zero": weight[:, c] if c < 3 else torch.zeros_like(weight[:, 0]),
                }[name]
                torch.testing.assert_close(wide[:, c], expected)


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2"])
def test_pretrained_weights_are_widened_and_all_others_are_as_in_the_file(name, tmp_path):
    rgb = new_segmenter(config(name), 3, seed=1)
    file = tmp_path / "backbone.safetensors"
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in rgb.backbone.state_dict().items()}, file)
    own = config(name, input={**FOUR, "widening": "zero"})
    own = own.model_copy(update={"backbone": own.backbone.model_copy(update={"weights": str(file)})})
    model = new_segmenter(own, 3, seed=2)
    conv = first_convolution(model.backbone, 4)
    assert torch.equal(conv.weight[:, :3], first_convolution(rgb.backbone, 3).weight)
    assert not conv.weight[:, 3].any()
    image = torch.randn(2, 4, 33, 41)
    torch.testing.assert_close(model.eval().backbone(image)[3], rgb.eval().backbone(image[:, :3])[3])


def test_initial_weights_of_more_channels_follow_from_the_seed():
    first, again, other = (new_segmenter(config(input=FOUR), 3, seed=seed).backbone.state_dict() for seed in (1, 1, 2))
    (name,) = [key for key, value in first.items() if value.shape[1:2] == (4,) and value.ndim == 4]
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert first[name].std() > 0


def test_a_backbone_without_a_convolution_for_images_is_refused():
    with pytest.raises(ConfigError, match=r"model\.input\.channels: this backbone has no first convolution"):
        first_convolution(nn.Linear(3, 3), 3)


def test_rgb_networks_have_the_tensors_they_had():
    assert {k: v.shape for k, v in Segmenter(config(), 3).state_dict().items()} == {
        k: v.shape for k, v in new_segmenter(config(), 3, seed=0).state_dict().items()
    }


def test_a_network_is_trained_and_scored_on_images_of_seven_bands(tiny_config, tiny_data, tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="the extra `tiff` is not installed")
    random = np.random.default_rng(0)
    for path in (tiny_data / "images").rglob("*.png"):
        tifffile.imwrite(path.with_suffix(".tif"), random.integers(0, 256, (37, 53, 7), dtype=np.uint8))
        path.unlink()
    numbers = ", ".join(["100.0"] * 7)
    channels = f"model.input={{channels: 7, mean: [{numbers}], std: [{numbers}]}}"
    fit(load_recipe(tiny_config, [channels, "data.distort=false", "train.max_steps=2"]), tmp_path / "run")
    run = open_run(tmp_path / "run")
    val = run.open_data("val")
    assert np.array_equal(val.read(0).image, tifffile.imread(val.image_path(0)))
    assert evaluate_run(run).metrics["num_images"] == 3
    assert predict_files(load(tmp_path / "run"), [tiny_data / "images/val"], tmp_path / "out") == 3


@pytest.mark.parametrize("bands", [1, 4])
def test_a_network_is_trained_scored_and_applied_on_images_of_other_bands(tiny_config, tiny_data, tmp_path, bands):
    random = np.random.default_rng(0)
    for path in (tiny_data / "images").rglob("*.png"):
        extra = random.integers(0, 256, (37, 53, 1), dtype=np.uint8)
        pixels = np.dstack([np.asarray(Image.open(path)), extra]) if bands == 4 else extra[..., 0]
        Image.fromarray(pixels).save(path)
    numbers = ", ".join(["100.0"] * bands)
    channels = f"model.input={{channels: {bands}, mean: [{numbers}], std: [{numbers}]}}"
    if bands == 4:
        with pytest.raises(DataError, match=r"mode RGBA, whose last band .* set model\.input\.channels"):
            build_data(load_recipe(tiny_config), "val").read(0)
    with pytest.raises(ConfigError, match=r"data\.distort: changes hues"):
        fit(load_recipe(tiny_config, [channels]), tmp_path / "other")
    fit(load_recipe(tiny_config, [channels, "data.distort=false", "train.max_steps=2"]), tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert run.open_data("val").read(0).image.shape == (37, 53, bands)
    assert evaluate_run(run).metrics["num_images"] == 3
    assert predict_files(load(tmp_path / "run"), [tiny_data / "images/val"], tmp_path / "out") == 3
    rows = segnl.attention(load(tmp_path / "run"), next((tiny_data / "images/val").iterdir()), (3, 4))
    assert rows["receptive field"].weights.ndim == 2
    Image.new("RGB", (53, 37)).save(tmp_path / "rgb.png")
    with pytest.raises(DataError, match=f"image of 3 bands, but model.input.channels is {bands}"):
        predict_files(load(tmp_path / "run"), [tmp_path / "rgb.png"], tmp_path / "out")
