import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from segnl.optim.optim import AdamWConfig, CosineConfig, PolyConfig, SGDConfig, build_optimiser, learning_rate


def test_poly_is_the_published_formula_and_ends_above_end_lr():
    poly = PolyConfig(name="poly", power=0.9, end_lr=1e-4)
    for step in (0, 7, 99):
        expected = 1e-4 + (0.01 - 1e-4) * (1 - step / 100) ** 0.9
        assert learning_rate(poly, step, max_steps=100, lr=0.01) == pytest.approx(expected, rel=1e-12)


def test_cosine_is_half_of_a_wave():
    cosine = CosineConfig(name="cosine")
    for step in (0, 50, 99):
        expected = (1 + math.cos(math.pi * step / 100)) / 2
        assert learning_rate(cosine, step, max_steps=100, lr=1.0) == pytest.approx(expected, rel=1e-12)


def test_warm_up_climbs_in_equal_steps_to_the_base_rate():
    poly = PolyConfig(name="poly", warmup_steps=3)
    rates = [learning_rate(poly, step, max_steps=10, lr=1.0) for step in range(4)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_a_warm_up_longer_than_the_training_stays_a_rate():
    poly = PolyConfig(name="poly", warmup_steps=50)
    assert all(0 < learning_rate(poly, step, max_steps=10, lr=1.0) < 1 for step in range(10))


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
