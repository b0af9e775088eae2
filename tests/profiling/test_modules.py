import pytest
import torch

from segnl.core.errors import ConfigError
from segnl.models.blocks.criss_cross import CrissCrossBlock
from segnl.profiling.peak_memory import inputs_of, select_module
from segnl.runs.build import build_model
from segnl.runs.recipe import load_recipe


@pytest.fixture
def model(tiny_config):
    return build_model(load_recipe(tiny_config), 3, is_new=False).eval()


def test_head_and_classifier_give_the_networks_logits(model):
    head = select_module(model, "head")
    image = torch.randn(1, 3, 37, 53)
    with torch.no_grad():
        torch.testing.assert_close(head(*model.backbone(image)), model(image).main, rtol=0, atol=0)


def test_inputs_are_those_inside_the_network(model):
    block = select_module(model, "attention")
    assert isinstance(block, CrissCrossBlock)
    (map_,) = inputs_of(model, block, "attention", (37, 53))
    assert map_.shape == (1, 16, 5, 7)  # output stride 8, odd sizes rounded up
    assert [stage.shape[1] for stage in inputs_of(model, select_module(model, "head"), "head", (37, 53))] == [
        8,
        16,
        32,
        64,
    ]


def test_the_predicting_network_has_no_auxiliary_head_and_the_callers_keeps_its_own(model):
    names = list(model.state_dict())
    predictor = select_module(model, "model")
    assert predictor.auxiliary is None
    assert list(model.state_dict()) == names
    assert any(name.startswith("auxiliary") for name in names)
    image = torch.randn(1, 3, 37, 53)
    assert torch.equal(predictor(image).main, model(image).main)
    assert "auxiliary" in model.train()(torch.randn(2, 3, 37, 53)).aux


def test_a_head_without_attention_is_refused(tiny_config):
    fcn = load_recipe(tiny_config, ["model.head={name: fcn, channels: 8}"])
    with pytest.raises(ConfigError, match="FCNHead has no non-local"):
        select_module(build_model(fcn, 3, is_new=False), "attention")
