"""What is measured in processes of their own in the benchmark of evaluation; see eval.py."""

from collections.abc import Callable, Sequence
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
    """case: classes, hw (of the label; logits have an eighth), logits (realistic, noise), or scales to slide at."""
    h, w = case["hw"]
    if "scales" in case:
        return slid(case["classes"], h, w, case["scales"])
    return labelling(LOGITS[case["logits"]](case["classes"], h // 8, w // 8), h, w)[contestant]


def slid(k: int, height: int, width: int, scales: Sequence[float]) -> Callable[[], Any]:
    """The labels of an image by windows of it and its mirror image; a 1x1 convolution at an eighth of the size."""
    from segnl.evaluation.inference import infer, scaled_hw
    from segnl.runs.recipe import EvalConfig

    random = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, height, width, generator=random)
    weight = torch.randn(k, 3, 1, 1, generator=random)

    def predict(crop: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.avg_pool2d(crop, 8, ceil_mode=True), weight)

    sizes = [scaled_hw((height, width), scale) for scale in scales]
    cfg = EvalConfig(mode="slide", window_hw=(512, 512), stride_hw=(341, 341), batch_size=1, flip=True)
    return lambda: infer(predict, image, (height, width), cfg, input_hws=sizes).argmax()


def labelling(logits: torch.Tensor, height: int, width: int) -> dict[str, Callable[[], Any]]:
    """The winning class of every pixel, from logits of an eighth of the size."""
    from segnl.ops.upsampled_labels import upsampled_labels

    return {
        "segnl": lambda: upsampled_labels(logits, (height, width), align_corners=False),
        "interpolate + argmax": lambda: F.interpolate(logits, size=(height, width), mode="bilinear").argmax(1),
    }
