"""Initial parameters as a pure function of (seed, module path, shape).

Two models that share a path and a shape share the initial values there, whatever stands beside it: the ground on
which two heads can be compared. Special initial values are subclasses that override `reset_parameters`.
"""

import torch
from torch import nn

from segnl.core.seeds import seed_for


def initialise(model: nn.Module, seed: int) -> None:
    """Draws every parameter of `model` anew, and the buffers of modules with `reset_parameters`.

    The global random state is left as it was.

    Raises ValueError naming the module when one owns parameters but has no `reset_parameters`.
    """
    with torch.random.fork_rng(devices=[]):
        for path, module in model.named_modules():
            reset = getattr(module, "reset_parameters", None)
            owns = any(True for _ in module.parameters(recurse=False))
            if not owns and (reset is None or not any(True for _ in module.buffers(recurse=False))):
                continue
            if reset is None:
                kind = type(module).__name__
                raise ValueError(f"{path}: {kind} owns parameters but has no reset_parameters(); give it one")
            # manual_seed would seed the accelerators as well, whose state fork_rng(devices=[]) does not put back.
            torch.default_generator.manual_seed(seed_for(seed, "init", path))
            reset()
