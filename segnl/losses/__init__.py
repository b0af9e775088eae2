"""Losses, a file each, and each also as a function of logits and a label."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from segnl.core.config import validate
from segnl.losses.base import StepNormalizer
from segnl.losses.find import LOSSES
from segnl.ops.kernels.pixel_loss import checked_label
from segnl.ops.pixel_loss import check_logits_and_label

__all__ = ["cross_entropy", "dice", "focal", "lovasz", "ohem"]


def _loss_function(name: str) -> Callable[..., Tensor]:
    loss_class = LOSSES.find(name)

    def loss_function(
        logits: Tensor,
        label: Tensor,
        *,
        class_weight: Tensor | Sequence[float] | None = None,
        align_corners: bool = False,
        **settings: Any,
    ) -> Tensor:
        cfg = validate(loss_class.Config, {"name": name, **settings}, file=f"segnl.losses.{name}")
        check_logits_and_label(logits, label)
        checked_label(label, logits.shape[1])
        if class_weight is not None:
            class_weight = torch.as_tensor(class_weight, dtype=torch.float32, device=logits.device)
            num_classes = logits.shape[1]
            if class_weight.shape != (num_classes,) or not bool(((class_weight >= 0) & class_weight.isfinite()).all()):
                raise ValueError(f"class_weight: {class_weight.tolist()}; expected {num_classes} numbers of at least 0")
        loss = loss_class(cfg, class_weight, align_corners=align_corners)
        value: Tensor = loss.of_step(logits, label, StepNormalizer(loss.divisor(label)))
        return cfg.weight * value

    loss_function.__name__ = loss_function.__qualname__ = name
    loss_function.__doc__ = f"""{loss_class.__doc__}

    logits: floating `b k h w` of any size, upsampled to the label's; label: integer `b H W`, 0..k-1, or 255: ignored.
    class_weight: `k` numbers, or None for ones. align_corners: how logits are upsampled. settings: the keys that a
    recipe may hold under `loss`. Returns a scalar. Raises ValueError for other tensors and weights, ConfigError for
    other settings.
    """
    return loss_function


# Functions have the names of their modules. `find` has imported a module, and so made it an attribute of this package,
# before the function takes the attribute's place.
cross_entropy = _loss_function("cross_entropy")
dice = _loss_function("dice")
focal = _loss_function("focal")
lovasz = _loss_function("lovasz")
ohem = _loss_function("ohem")
