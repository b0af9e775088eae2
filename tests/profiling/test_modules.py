import pytest
import torch

from segnl.core.errors import ConfigError
from segnl.models.blocks.criss_cross import CrissCrossBlock
from segnl.profiling.modules import inputs_of, part_of
from segnl.runs.build import build_model
from segnl.runs.recipe import load_recipe


@pytest.fixture
def model(tiny_config):
    return build_model(load_recipe(tiny_config), 3, is_new=False).eval()


def test_head_and_classifier_of_the_stages_are_the_network(model):
    head = part_of(model, "head")
    image = torch.randn(1, 3, 37, 53)
    with torch.no_grad():
        torch.testing.assert_close(head(list(model.backbone(image))), model(image).main, rtol=0, atol=0)


def test_the_block_that_attends_gets_the_map_that_it_gets_in_the_network(model):
    block = part_of(model, "attention")
    assert isinstance(block, CrissCrossBlock)
    (map_,) = inputs_of(model, block, "attention", (37, 53))
    assert map_.shape == (1, 16, 5, 7)  # output stride 8, odd sizes rounded up
    assert [each.shape[1] for each in inputs_of(model, part_of(model, "head"), "head", (37, 53))] == [8, 16, 32, 64]


def test_the_model_is_the_one_that_predicts(model):
    assert not any(name.startswith("auxiliary") for name, _ in part_of(model, "model").named_parameters())


def test_a_head_without_attention_says_so(tiny_config):
    fcn = load_recipe(tiny_config, ["model.head={name: fcn, channels: 8}"])
    with pytest.raises(ConfigError, match="FCNHead has no non-local"):
        part_of(build_model(fcn, 3, is_new=False), "attention")
