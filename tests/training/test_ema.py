import torch

from segnl.runs.build import build_model
from segnl.runs.recipe import load_recipe
from segnl.training.ema import ModelEMA


def test_the_ema_follows_the_formula_and_counters_are_copied(tiny_config):
    model = build_model(load_recipe(tiny_config), 3, is_new=True)
    ema = ModelEMA(model, 0.4)
    expected = {name: value.double() for name, value in model.state_dict().items()}
    for step in (1, 2, 3, 4, 5, 6):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.add_(1)
        decay = min(0.4, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            kept = decay * expected[name] + (1 - decay) * value
            expected[name] = kept if value.is_floating_point() else value.double()
        ema.update(model, step)
    assert decay == 0.4
    for name, value in ema.model.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_the_ema_is_a_copy_without_gradients(tiny_config):
    model = build_model(load_recipe(tiny_config), 3, is_new=True)
    ema = ModelEMA(model, 0.9)
    with torch.no_grad():
        model.classifier.weight.add_(1)
    assert not torch.equal(model.classifier.weight, ema.model.classifier.weight)
    assert not ema.model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
