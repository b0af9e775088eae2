import pytest
import torch
from torch import nn

from segnl.models.initialisation import initialise


def test_parameters_depend_on_seed_path_and_shape_only() -> None:
    small = nn.ModuleDict({"conv": nn.Conv2d(3, 5, 3)})
    large = nn.ModuleDict({"before": nn.Linear(9, 9), "conv": nn.Conv2d(3, 5, 3), "after": nn.Linear(2, 2)})
    initialise(small, 3)
    initialise(large, 3)
    assert torch.equal(small["conv"].weight, large["conv"].weight)


def test_another_seed_and_another_path_give_other_values() -> None:
    model = nn.ModuleDict({"a": nn.Conv2d(3, 5, 3), "b": nn.Conv2d(3, 5, 3)})
    initialise(model, 0)
    first = model["a"].weight.clone()
    assert not torch.equal(first, model["b"].weight)
    initialise(model, 1)
    assert not torch.equal(first, model["a"].weight)


def test_initialise_resets_running_statistics() -> None:
    norm = nn.BatchNorm2d(4)
    norm(torch.randn(2, 4, 3, 3) + 5)
    initialise(norm, 0)
    assert norm.running_mean.abs().max() == 0


def test_the_global_random_state_does_not_change() -> None:
    model = nn.Linear(4, 4)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    initialise(model, 0)
    assert torch.equal(torch.rand(3), expected)


def test_a_module_that_cannot_be_reset_is_named() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(2))

    with pytest.raises(ValueError, match=r"head\.block: Bare owns parameters"):
        initialise(nn.ModuleDict({"head": nn.ModuleDict({"block": Bare()})}), 0)
