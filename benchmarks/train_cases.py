"""What each contestant runs in the benchmark of training steps; see train.py.

Every contestant makes the same step: batch 2, crops of 512x512, ResNet-50 at output stride 8, upsampled cross-entropy
(with the auxiliary head's at 0.4 where the peer has one), backward, SGD with momentum. The peers in plain loops.
"""

import sys
import time
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timing import CannotRunError, Case
from torch import Tensor, nn

CLASSES = 19
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
BACKBONE = {"name": "resnet", "depth": 50, "output_stride": 8, "stem": {"kind": "plain"}}
# Heads of segnl that have the peers' shapes.
PAPER_ASPP = {"name": "aspp", "channels": 256, "project_kernel": 1, "has_last_conv": True, "project_dropout": 0.5}

Call = Callable[[], object]
Network = Callable[[Tensor], list[Tensor]]


def build(contestant: str, case: Case) -> Call:
    """case: head, peer, batch, hw. contestant: a peer, `segnl`, or `segnl bf16` (bfloat16 and channels_last)."""
    from segnl.core.memory import keep_freed_memory

    keep_freed_memory()  # as `segnl train` does; for all contestants, so that the comparison is fair
    torch.manual_seed(0)
    if contestant.startswith("segnl"):
        return _segnl(case, is_half=contestant != "segnl")
    network, parameters = {"torchvision": _torchvision, "smp": _smp, "mmseg": _mmseg}[contestant](case["head"])
    image = torch.randn(case["batch"], 3, *case["hw"])
    label = _labels(case)
    optimiser = torch.optim.SGD(parameters, **SGD)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss = image.new_zeros(())
        for weight, logits in zip((1.0, 0.4), network(image), strict=False):
            up = F.interpolate(logits, case["hw"], mode="bilinear", align_corners=False)
            loss = loss + weight * F.cross_entropy(up, label, ignore_index=255)
        loss.backward()
        optimiser.step()

    return step


def _labels(case: Case) -> Tensor:
    label = torch.randint(0, CLASSES, (case["batch"], *case["hw"]))
    label[:, : case["hw"][0] // 10] = 255
    return label


def _segnl(case: Case, *, is_half: bool) -> Call:
    from segnl.data.sample import Batch
    from segnl.runs.build import build_model
    from segnl.runs.recipe import compose
    from segnl.training.trainer import Trainer

    stem = {"kind": "deep", "channels": 64} if case["peer"] == "mmseg" else {"kind": "plain"}
    aux = None if case["peer"] == "smp" else {"channels": 256, "weight": 0.4}
    mapping = {
        "model": {"backbone": {**BACKBONE, "stem": stem}, "head": _head(case["head"]), "aux": aux},
        "data": {"name": "cityscapes", "root": "none", "crop_hw": case["hw"]},
        "train": {
            "max_steps": 1000,
            "batch_size": case["batch"],
            "precision": "bf16" if is_half else "float32",
            "channels_last": is_half,
        },
        "optim": {"name": "sgd", **SGD},
        "schedule": {"name": "poly"},
        "loss": {"name": "cross_entropy"},
    }
    recipe = compose(mapping, file="benchmark")
    trainer = Trainer(recipe, build_model(recipe, CLASSES, is_new=True), torch.device("cpu"))
    image = torch.randint(0, 256, (case["batch"], 3, *case["hw"]), dtype=torch.uint8)
    batch = Batch(image, _labels(case), ["random"] * case["batch"])
    spent = _clocks(trainer.model)

    def step() -> dict[str, float]:
        spent.clear()
        report = trainer.step(batch)
        loss = report.forward_s - sum(spent.values())
        return {**spent, "loss": loss, "backward": report.backward_s, "optimiser": report.optim_s}

    return step


def _clocks(model: nn.Module) -> dict[str, float]:
    """Seconds that backbone and head take of a forward pass, filled in by every one; the classifiers are the loss's."""
    spent: dict[str, float] = {}
    for name, module in {"backbone": model.backbone, "head": model.head}.items():

        def begin(*_: object, name: str = name) -> None:
            spent[name] = -time.perf_counter()

        def end(*_: object, name: str = name) -> None:
            spent[name] += time.perf_counter()

        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end)
    return spent


def _head(name: str) -> dict[str, Any]:
    return PAPER_ASPP if name == "aspp_256" else {"name": name}


def _torchvision(head: str) -> tuple[Network, Any]:
    from torchvision.models.segmentation import deeplabv3_resnet50

    if head != "aspp_256":
        raise CannotRunError("torchvision has DeepLabV3 only")
    model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True).train()

    def network(image: Tensor) -> list[Tensor]:
        # Its forward upsamples by itself, which the shared step does here for all.
        features = model.backbone(image)
        return [model.classifier(features["out"]), model.aux_classifier(features["aux"])]

    return network, model.parameters()


def _smp(head: str) -> tuple[Network, Any]:
    import segmentation_models_pytorch as smp

    if head != "aspp_256":
        raise CannotRunError("segmentation_models.pytorch has DeepLabV3 only")
    model = smp.DeepLabV3("resnet50", encoder_weights=None, encoder_output_stride=8, classes=CLASSES, upsampling=1)
    model.train()
    return lambda image: [model(image)], model.parameters()


def _mmseg(head: str) -> tuple[Network, Any]:
    """mmsegmentation's modules; a stand-in that has every name takes the place of mmcv's compiled extension."""

    class Extension(types.ModuleType):
        def __getattr__(self, name: str) -> None:
            if name.startswith("__"):
                raise AttributeError(name)

    sys.modules.setdefault("mmcv._ext", Extension("mmcv._ext"))
    from mmseg.models.backbones import ResNetV1c
    from mmseg.models.decode_heads import ASPPHead, CCHead, FCNHead, NLHead

    norm = {"type": "BN", "requires_grad": True}
    common = {
        "num_classes": CLASSES,
        "norm_cfg": norm,
        "align_corners": False,
        "dropout_ratio": 0.1,
        "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
    }
    backbone = ResNetV1c(
        depth=50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), norm_cfg=norm, norm_eval=False, contract_dilation=True
    )
    kinds = {
        "aspp": lambda: ASPPHead(dilations=(1, 12, 24, 36), in_channels=2048, in_index=3, channels=512, **common),
        "non_local": lambda: NLHead(
            in_channels=2048, in_index=3, channels=512, reduction=2, use_scale=True, mode="embedded_gaussian", **common
        ),
        "rcca": lambda: CCHead(in_channels=2048, in_index=3, channels=512, recurrence=2, **common),
    }
    if head not in kinds:
        raise CannotRunError(f"mmsegmentation is not asked for {head}")
    main = kinds[head]()
    aux = FCNHead(in_channels=1024, in_index=2, channels=256, num_convs=1, concat_input=False, **common)
    parts = nn.ModuleList([backbone, main, aux]).train()

    def network(image: Tensor) -> list[Tensor]:
        stages = backbone(image)
        return [main(stages), aux(stages)]

    return network, parts.parameters()
