import torch
from torch import nn

from segnl.models.initialisation import initialise, seeded


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


class Scaled(nn.Module):
    """A block of another library: it owns a parameter and has no reset_parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((2,), 0.5))
        self.conv = nn.Conv2d(2, 2, 1)


def test_a_module_without_reset_parameters_keeps_its_values_and_those_inside_it() -> None:
    model = nn.ModuleDict({"block": Scaled(), "conv": nn.Conv2d(2, 2, 1)})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    initialise(model, 0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"conv.weight", "conv.bias"}


def test_what_a_constructor_draws_follows_from_seed_and_path() -> None:
    def weight(seed: int, path: str) -> torch.Tensor:
        with seeded(seed, path):
            return nn.Conv2d(2, 2, 1).weight

    assert torch.equal(weight(0, "backbone"), weight(0, "backbone"))
    assert not torch.equal(weight(0, "backbone"), weight(1, "backbone"))
    assert not torch.equal(weight(0, "backbone"), weight(0, "head"))
