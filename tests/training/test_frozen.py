import pytest
import torch

from segnl.core.errors import ConfigError
from segnl.runs.build import build_model
from segnl.runs.checkpoint import checkpoints_of, load_checkpoint
from segnl.runs.recipe import load_recipe
from segnl.training.fit import fit


@pytest.mark.parametrize(
    ("frozen", "modules"),
    [("true", ("stem", "layer1", "layer2", "layer3", "layer4")), ("1", ("stem", "layer1"))],
)
@pytest.mark.parametrize("optimiser", ["sgd, momentum: 0.9, weight_decay: 0.1", "adamw, weight_decay: 0.1"])
def test_frozen_tensors_stay_equal_bit_for_bit_and_the_others_learn(tiny_config, tmp_path, frozen, modules, optimiser):
    options = [f"model.backbone.frozen={frozen}", f"optim={{name: {optimiser}, lr: 0.01}}", "train.ema=0.9"]
    recipe = load_recipe(tiny_config, options)
    before = build_model(recipe, 3, is_new=True).state_dict()
    fit(recipe, tmp_path / "run")
    checkpoint = load_checkpoint(checkpoints_of(tmp_path / "run")[0])
    prefixes = tuple(f"backbone.{module}." for module in modules)
    assert not any(name.startswith(prefixes) for name in checkpoint.optim)
    for state in (checkpoint.model, checkpoint.ema):
        statistics = {name for name in before if name.endswith(("running_mean", ".weight")) and ".bn2." not in name}
        for name in before:
            if name.startswith(prefixes):
                assert torch.equal(state[name], before[name])
            elif name in statistics:
                assert not torch.equal(state[name], before[name])


def test_a_killed_training_with_frozen_stages_resumes_exactly(tiny_config, tmp_path):
    recipe = load_recipe(tiny_config, ["model.backbone.frozen=2"])
    fit(recipe, tmp_path / "run")
    last = load_checkpoint(checkpoints_of(tmp_path / "run")[0])
    checkpoints_of(tmp_path / "run")[0].unlink()
    fit(recipe, tmp_path / "run")
    again = load_checkpoint(checkpoints_of(tmp_path / "run")[0])
    assert all(torch.equal(again.model[name], last.model[name]) for name in last.model)


@pytest.mark.parametrize("frozen", ["0", "5", "yes"])
def test_a_number_of_stages_is_1_to_4(tiny_config, frozen):
    with pytest.raises(ConfigError, match=r"model\.backbone\.frozen"):
        load_recipe(tiny_config, [f"model.backbone.frozen={frozen}"])
