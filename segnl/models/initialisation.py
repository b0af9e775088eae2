"""Initial parameters as a pure function of (seed, module path, shape).

Two models with a module of the same path and shape start with the same values there, whatever their other modules are.
Comparisons of heads rely on it. Layers with special initial values override `reset_parameters`.
"""

import torch
from torch import nn

from segnl.core.seeds import seed_for


def initialise(model: nn.Module, seed: int) -> None:
    """Draws all parameters of `model`, and the buffers of modules with `reset_parameters`, from the seed.

    Does not change the global random state.

    Raises ValueError naming a module that owns parameters but has no `reset_parameters`.
    """
    with torch.random.fork_rng(devices=[]):
        for path, module in model.named_modules():
            reset = getattr(module, "reset_parameters", None)
            owns_parameters = any(True for _ in module.parameters(recurse=False))
            owns_buffers = any(True for _ in module.buffers(recurse=False))
            if not owns_parameters and not (owns_buffers and reset):
                continue
            if reset is None:
                kind = type(module).__name__
                raise ValueError(f"{path}: {kind} owns parameters but has no reset_parameters(); give it one")
            # torch.manual_seed would also seed the accelerators, whose state fork_rng(devices=[]) does not restore.
            torch.default_generator.manual_seed(seed_for(seed, "init", path))
            reset()
