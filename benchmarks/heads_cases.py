"""What each contestant runs in the benchmark of whole heads; see heads.py."""

import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from timing import CannotRunError, Case
from torch import Tensor, nn

CLASSES = 19
STAGES = (256, 512, 1024, 2048)
PEERS: dict[str, dict[str, Any]] = {
    "fcn": {"type": "FCNHead", "num_convs": 2},
    "aspp": {"type": "ASPPHead", "dilations": (1, 12, 24, 36)},
    "deeplabv3plus": {
        "type": "DepthwiseSeparableASPPHead", "dilations": (1, 12, 24, 36), "c1_in_channels": 256, "c1_channels": 48
    },
    "psp": {"type": "PSPHead", "pool_scales": (1, 2, 3, 6)},
    "non_local": {"type": "NLHead", "reduction": 2, "use_scale": True, "mode": "embedded_gaussian"},
    "dnl": {"type": "DNLHead", "reduction": 2, "use_scale": True, "mode": "embedded_gaussian"},
    "gc": {"type": "GCHead", "ratio": 0.25, "pooling_type": "att", "fusion_types": ("channel_add",)},
    "rcca": {"type": "CCHead", "recurrence": 2},
    "isa": {"type": "ISAHead", "isa_channels": 256, "down_factor": (8, 8)},
    "da": {"type": "DAHead", "pam_channels": 64},
    "ann": {
        "type": "ANNHead", "project_channels": 256, "key_pool_scales": (1, 3, 6, 8), "in_channels": [1024, 2048],
        "in_index": [2, 3],
    },
    "ema": {"type": "EMAHead", "ema_channels": 512, "channels": 256, "num_bases": 64, "num_stages": 3},
    "ocr": {"type": "OCRHead", "ocr_channels": 256},
}  # fmt: skip
"""mmsegmentation's own settings for ResNet-50, without those that all share."""

COARSE = {
    "type": "FCNHead", "in_channels": 1024, "in_index": 2, "channels": 256, "num_convs": 1, "concat_input": False
}  # fmt: skip

Head = Callable[[list[Tensor]], list[Tensor]]


def build(contestant: str, case: Case) -> Callable[[], object]:
    """case: head, hw, mode (forward: evaluation, no gradient; forward_backward: training). Stages are random maps."""
    torch.manual_seed(0)
    is_trained = case["mode"] == "forward_backward"
    head, parts = {"segnl": _segnl, "mmseg": _mmseg}[contestant](case["head"])
    parts.train(is_trained)
    h, w = case["hw"]
    sizes = [(2 * h, 2 * w), (h, w), (h, w), (h, w)]  # output stride 8: c2 is twice as fine
    stages = [
        torch.randn(1, channels, *hw, requires_grad=is_trained) for channels, hw in zip(STAGES, sizes, strict=True)
    ]

    def predict() -> None:
        with torch.no_grad():
            head(stages)

    def train() -> None:
        for each in (*stages, *parts.parameters()):
            each.grad = None
        torch.stack([logits.square().mean() for logits in head(stages)]).sum().backward()

    return train if is_trained else predict


def _segnl(name: str) -> tuple[Head, nn.Module]:
    from segnl.models.find import HEADS

    kind = HEADS.find(name)
    head = kind(kind.Config(name=name), STAGES, CLASSES)
    classifier = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(head.out_channels, CLASSES, 1))

    def logits(stages: list[Tensor]) -> list[Tensor]:
        out = head(stages)
        return [classifier(out.context), *out.aux_logits.values()]

    return logits, nn.ModuleList([head, classifier])


def _mmseg(name: str) -> tuple[Head, nn.Module]:
    """mmsegmentation's heads; a stand-in that has every name takes the place of mmcv's compiled extension."""

    class Extension(types.ModuleType):
        def __getattr__(self, name: str) -> None:
            if name.startswith("__"):
                raise AttributeError(name)

    sys.modules.setdefault("mmcv._ext", Extension("mmcv._ext"))
    import mmseg.models  # noqa: F401  it fills the registry
    from mmseg.registry import MODELS

    if name not in PEERS:
        raise CannotRunError(f"mmsegmentation is not asked for {name}")
    common = {
        "in_channels": 2048,
        "in_index": 3,
        "channels": 512,
        "num_classes": CLASSES,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "align_corners": False,
        "dropout_ratio": 0.1,
        "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
    }
    head = MODELS.build(common | PEERS[name])
    if name != "ocr":

        def logits(stages: list[Tensor]) -> list[Tensor]:
            out = head(stages)
            return list(out) if isinstance(out, tuple) else [out]

        return logits, nn.ModuleList([head])
    coarse = MODELS.build(common | COARSE)

    def of_cascade(stages: list[Tensor]) -> list[Tensor]:
        before = coarse(stages)
        return [head(stages, before), before]

    return of_cascade, nn.ModuleList([coarse, head])
