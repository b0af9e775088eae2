import pytest
import torch

from segnl.core.errors import DataError
from segnl.engine.build import build_data, build_model, padding_rgb
from segnl.engine.recipe import load_recipe
from segnl.models.input import InputConfig


def test_a_new_model_is_a_function_of_the_seed(tiny_config):
    def weights(seed):
        recipe = load_recipe(tiny_config, [f"train.seed={seed}"])
        return torch.cat([p.detach().flatten() for p in build_model(recipe, 3, is_new=True).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_two_heads_share_every_weight_they_have_in_common(tiny_config):
    def weights(head):
        recipe = load_recipe(tiny_config, [f"model.head={{name: {head}, channels: 16}}"])
        return dict(build_model(recipe, 3, is_new=True).named_parameters())

    fcn, rcca, aspp = weights("fcn"), weights("rcca"), weights("aspp")
    assert fcn.keys() < rcca.keys()
    assert all(torch.equal(fcn[name], rcca[name]) for name in fcn)
    shared = [name for name in fcn.keys() & aspp.keys() if fcn[name].shape == aspp[name].shape]
    assert {"classifier.weight", "auxiliary.classifier.weight", "backbone.layer4.0.conv1.weight"} <= set(shared)
    assert all(torch.equal(fcn[name], aspp[name]) for name in shared)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_padding_normalises_to_nearly_nothing(order):
    from segnl.models.input import Normalise

    cfg = InputConfig(mean=(10.4, 100.0, 200.6), std=(50.0, 60.0, 70.0), order=order)
    pixel = torch.tensor(padding_rgb(cfg), dtype=torch.uint8).view(1, 3, 1, 1)
    assert Normalise(cfg)(pixel).abs().max() < 0.5 / 50


def test_an_unknown_split_names_those_that_are_there(tiny_config):
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        build_data(load_recipe(tiny_config), "test")
