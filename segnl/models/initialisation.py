"""Initial parameters as a pure function of (seed, module path, shape).

Two models with a module of the same path and shape start with the same values there, whatever their other modules are.
Comparisons of heads rely on it. Layers with special initial values override `reset_parameters`. Modules that initialise
themselves keep what their constructor drew; `seeded` makes that repeatable.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from segnl.core.seeds import seed_for


@contextmanager
def seeded(seed: int, path: str) -> Iterator[None]:
    """Draws random numbers on the CPU from the seed and a module's path; the global random state does not change."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the accelerators, whose state fork_rng(devices=[]) does not restore.
        torch.default_generator.manual_seed(seed_for(seed, "init", path))
        yield


def initialise(model: nn.Module, seed: int) -> None:
    """Draws all parameters of `model`, and the buffers of modules with `reset_parameters`, from the seed.

    Modules that set `is_self_initialised`, or own parameters without a `reset_parameters`, keep their values, and so
    does everything inside them.
    """
    kept: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(prefix) for prefix in kept):
            continue
        reset = getattr(module, "reset_parameters", None)
        owns_parameters = any(True for _ in module.parameters(recurse=False))
        owns_buffers = any(True for _ in module.buffers(recurse=False))
        if getattr(module, "is_self_initialised", False) or (owns_parameters and reset is None):
            kept.append(f"{path}." if path else "")
        elif reset is not None and (owns_parameters or owns_buffers):
            with seeded(seed, path):
                reset()
