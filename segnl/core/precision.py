"""Autocast to a half-precision type, or float32.

Weights, their gradients, the optimiser's state and the loss are always float32.
"""

from typing import Literal

import torch

Precision = Literal["float32", "bf16", "fp16"]


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Returns the context for a network's forward; it does nothing for float32."""
    half = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, half, enabled=precision != "float32")
