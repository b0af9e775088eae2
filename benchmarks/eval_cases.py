"""What is measured in processes of their own in the benchmark of evaluation; see eval.py."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timing import Case


def realistic(k: int, h: int, w: int) -> torch.Tensor:
    """Regions with a clear winner and a little noise, as a trained network gives them: `1 k h w`."""
    random = torch.Generator().manual_seed(0)
    regions = torch.randn(1, k, max(1, h // 16), max(1, w // 16), generator=random) * 4
    return F.interpolate(regions, size=(h, w), mode="bilinear") + 0.1 * torch.randn(1, k, h, w, generator=random)


def noise(k: int, h: int, w: int) -> torch.Tensor:
    """Logits without any region: `1 k h w`."""
    return torch.randn(1, k, h, w, generator=torch.Generator().manual_seed(0))


LOGITS = {"realistic": realistic, "noise": noise}


def build(contestant: str, case: Case) -> Callable[[], object]:
    """case: classes, hw (of the label; logits have an eighth), logits (realistic | noise)."""
    h, w = case["hw"]
    return labelling(LOGITS[case["logits"]](case["classes"], h // 8, w // 8), h, w)[contestant]


def labelling(logits: torch.Tensor, height: int, width: int) -> dict[str, Callable[[], Any]]:
    """The winning class of every pixel, from logits of an eighth of the size."""
    from segnl.engine.upsampled_labels import upsampled_labels

    return {
        "segnl": lambda: upsampled_labels(logits, (height, width), align_corners=False),
        "interpolate + argmax": lambda: F.interpolate(logits, size=(height, width), mode="bilinear").argmax(1),
    }
