"""Networks of torchvision as backbones, from a user's file by its dotted name."""

import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torchvision.models import convnext_tiny, mobilenet_v3_large

from segnl.core.errors import CheckpointError, ConfigError
from segnl.data.sample import Batch
from segnl.models.segmenter import Segmenter, model_config, new_segmenter
from segnl.runs.recipe import load_recipe
from segnl.training.trainer import Trainer

CONVNEXT = """
    from torchvision.models import convnext_tiny

    from segnl.models.backbones.base import Backbone


    class ConvNeXtTiny(Backbone):
        def __init__(self, cfg):
            super().__init__()
            self.features = convnext_tiny(weights=None).features
            self.stage_channels, self.stage_strides = (96, 192, 384, 768), (4, 8, 16, 32)

        def forward(self, image):
            stages = [image]
            for group in self.stage_modules():
                for layer in group:
                    image = layer(image)
                stages.append(image)
            return stages[2:]

        def stage_modules(self):
            return self.features[:1], self.features[1:2], self.features[2:4], self.features[4:6], self.features[6:]


    BACKBONE = ConvNeXtTiny
"""
MOBILENET = """
    from torchvision.models import mobilenet_v3_large

    from segnl.models.backbones.base import Backbone


    class MobileNetV3(Backbone):
        def __init__(self, cfg):
            super().__init__()
            self.features = mobilenet_v3_large(weights=None).features
            self.stage_channels, self.stage_strides = (24, 40, 112, 960), (4, 8, 16, 32)

        def forward(self, image):
            stages = []
            for index, block in enumerate(self.features):
                image = block(image)
                if index in (3, 6, 12, 16):
                    stages.append(image)
            return stages


    BACKBONE = MobileNetV3
"""
CASES = pytest.mark.parametrize(
    ("name", "source", "network"),
    [("my_convnext", CONVNEXT, convnext_tiny), ("my_mobilenet", MOBILENET, mobilenet_v3_large)],
    ids=["convnext_tiny", "mobilenet_v3_large"],
)


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A package `mylab` outside segnl that Python can import."""
    folder = tmp_path / "mylab"
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("mylab")]:
        del sys.modules[name]


def config_of(folder: Path, name: str, source: str, **settings):
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    mapping = {
        "backbone": {"name": f"mylab.{name}", **settings},
        "head": {"name": "fcn", "channels": 8},
        "aux": {"channels": 8},
    }
    return model_config(mapping, file="test")


@CASES
def test_a_training_step_learns(own_folder, tiny_config, name, source, network):
    config_of(own_folder, name, source)
    recipe = load_recipe(tiny_config, [f"model.backbone={{name: mylab.{name}}}"])
    trainer = Trainer(recipe, new_segmenter(recipe.model, 3, seed=0), torch.device("cpu"))
    before = trainer.model.backbone.features[0][0].weight.clone()
    image = torch.randint(0, 256, (2, 3, 97, 65), dtype=torch.uint8)
    report = trainer.step(Batch(image, torch.randint(0, 3, (2, 97, 65), dtype=torch.uint8), ["a", "b"]))
    assert report.loss > 0
    assert not torch.equal(trainer.model.backbone.features[0][0].weight, before)


@CASES
def test_maps_have_the_declared_channels_and_strides(own_folder, name, source, network):
    backbone = Segmenter(config_of(own_folder, name, source), 3).backbone.eval()
    stages = backbone(torch.zeros(1, 3, 64, 96))
    assert tuple(stage.shape[1] for stage in stages) == backbone.stage_channels
    assert tuple(96 // stage.shape[3] for stage in stages) == backbone.stage_strides


@CASES
def test_initial_values_are_those_of_its_constructor_and_repeatable(own_folder, name, source, network):
    cfg = config_of(own_folder, name, source)
    torch.manual_seed(11)
    first = new_segmenter(cfg, 3, seed=0).state_dict()
    torch.manual_seed(12)
    second = new_segmenter(cfg, 3, seed=0).state_dict()
    other = new_segmenter(cfg, 3, seed=1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["backbone.features.0.0.weight"], other["backbone.features.0.0.weight"])
    expected = network(weights=None).features[0][0].weight.std()  # torchvision's own distribution, not torch's
    assert first["backbone.features.0.0.weight"].std().item() == pytest.approx(expected.item(), rel=0.25)


@CASES
def test_a_file_of_its_state_dict_is_loaded_and_not_redrawn(own_folder, tmp_path, name, source, network):
    torch.save(network(weights=None).state_dict(), tmp_path / "weights.pth")  # with its classifier
    state = torch.load(tmp_path / "weights.pth")
    backbone = new_segmenter(config_of(own_folder, name, source, weights=str(tmp_path / "weights.pth")), 3, 0).backbone
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


def test_its_norms_keep_their_own_eps_and_momentum(own_folder):
    backbone = Segmenter(config_of(own_folder, "my_mobilenet", MOBILENET), 3).backbone
    assert (backbone.features[0][1].eps, backbone.features[0][1].momentum) == (0.001, 0.01)


def test_weights_of_a_longer_network_are_refused(own_folder, tmp_path):
    state = convnext_tiny(weights=None).state_dict()
    torch.save(state | {"features.5.9.layer_scale": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"unknown: features\.5\.9\.layer_scale"):
        new_segmenter(config_of(own_folder, "my_convnext", CONVNEXT, weights=str(tmp_path / "weights.pth")), 3, 0)


def test_a_number_of_frozen_stages_needs_stage_modules(own_folder):
    with pytest.raises(ConfigError, match=r"MobileNetV3 does not define stage_modules\(\)"):
        Segmenter(config_of(own_folder, "my_mobilenet", MOBILENET, frozen=2), 3)
    model = Segmenter(config_of(own_folder, "my_convnext", CONVNEXT, frozen=2), 3)
    trained = {name.split(".")[2] for name, p in model.named_parameters() if p.requires_grad and "backbone" in name}
    assert trained == {"4", "5", "6", "7"}
