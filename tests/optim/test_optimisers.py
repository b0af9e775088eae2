import pytest
import torch
from pydantic import ValidationError
from torch import nn

from segnl.optim.find import OPTIMISERS
from segnl.optim.optimisers.adamw import AdamWConfig
from segnl.optim.optimisers.base import build_optimiser, set_learning_rate
from segnl.optim.optimisers.sgd import SGDConfig
from segnl.runs.recipe import load_recipe
from tests.training.test_trainer import batch_of, trainer_for


class Gate(nn.Module):
    opens_attention = True

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = Gate()
        self.classifier = nn.Conv2d(4, 2, 1)


def test_without_multipliers_there_is_one_group_as_published():
    groups = build_optimiser(SGDConfig(name="sgd", lr=0.1, weight_decay=5e-4), Net()).param_groups
    assert [(group["lr_mult"], group["weight_decay"], len(group["params"])) for group in groups] == [(1.0, 5e-4, 7)]


def test_multipliers_and_decay_reach_the_parameters_they_mean():
    cfg = AdamWConfig(name="adamw", lr=0.1, weight_decay=0.2, decay_norms=False, head_lr_mult=10.0, gamma_lr_mult=3.0)
    net = Net()
    found = {
        name: (group["lr_mult"], group["weight_decay"])
        for group in build_optimiser(cfg, net).param_groups
        for name, parameter in net.named_parameters()
        if any(parameter is member for member in group["params"])
    }
    assert found == {
        "backbone.0.weight": (1.0, 0.2),
        "backbone.0.bias": (1.0, 0.0),
        "backbone.1.weight": (1.0, 0.0),
        "backbone.1.bias": (1.0, 0.0),
        "head.scale": (30.0, 0.0),
        "classifier.weight": (10.0, 0.2),
        "classifier.bias": (10.0, 0.0),
    }


@pytest.mark.parametrize("key", ["lr", "weight_decay", "head_lr_mult", "gamma_lr_mult"])
def test_a_rate_that_would_leave_float32_is_refused_before_training(key):
    with pytest.raises(ValidationError, match="expected at most 1e30"):
        AdamWConfig.model_validate({"name": "adamw", "lr": 0.1, key: 1e300})


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ValidationError, match="nesterov needs a momentum above 0"):
        SGDConfig(name="sgd", lr=0.1, momentum=0, nesterov=True)


@pytest.mark.parametrize("name", OPTIMISERS.names())
def test_every_optimiser_steps_and_keeps_the_groups_multipliers(name):
    net, cfg = Net(), OPTIMISERS.find(name)(name=name, lr=0.1, head_lr_mult=10.0)
    before = net.classifier.weight.detach().clone()
    optimiser = build_optimiser(cfg, net)
    assert {group["lr_mult"] for group in optimiser.param_groups} == {1.0, 10.0}
    net.classifier(net.backbone(torch.ones(2, 3, 5, 7))).square().sum().backward()
    optimiser.step()
    assert not torch.equal(before, net.classifier.weight)


def test_anybodys_module_is_an_optimiser(tiny_config, tmp_path, monkeypatch):
    (tmp_path / "mylab_optimisers").mkdir()
    (tmp_path / "mylab_optimisers" / "adadelta.py").write_text(
        "from torch import optim\n"
        "from segnl.optim.optimisers.base import OptimiserConfig\n\n"
        "class AdadeltaConfig(OptimiserConfig):\n"
        "    rho: float = 0.9\n\n"
        "    def build(self, groups):\n"
        "        return optim.Adadelta(groups, lr=self.lr, rho=self.rho)\n\n"
        "OPTIMISER = AdadeltaConfig\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    override = "optim={name: mylab_optimisers.adadelta, lr: 1.0, rho: 0.8}"
    assert load_recipe(tiny_config, [override]).optim.rho == 0.8
    trainer = trainer_for(tiny_config, override)
    assert isinstance(trainer.optimiser, torch.optim.Adadelta)
    assert trainer.step(batch_of(0)).loss > 0


def test_layer_decay_multiplies_the_learning_rate_once_for_each_stage_from_the_head():
    model = nn.Module()
    model.backbone = nn.ModuleList([nn.Conv2d(1, 1, 1) for _ in range(3)])
    model.backbone.stage_modules = lambda: [[stage] for stage in model.backbone]
    model.head = nn.Conv2d(1, 1, 1)
    cfg = SGDConfig(lr=0.1, head_lr_mult=10.0, layer_decay=0.5)
    optimiser = build_optimiser(cfg, model)
    set_learning_rate(optimiser, 0.1)
    rates = {parameter: group["lr"] for group in optimiser.param_groups for parameter in group["params"]}
    assert [rates[stage.weight] for stage in model.backbone] == pytest.approx([0.0125, 0.025, 0.05])
    assert rates[model.head.weight] == pytest.approx(1.0)
