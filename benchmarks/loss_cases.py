"""The contestants of the benchmark of the pixel losses; see loss.py."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import Case
from torch import Tensor

Call = Callable[[], object]


def build(contestant: str, case: Case) -> Call:
    """case: loss (cross_entropy | ohem), batch, classes, in_hw, out_hw, align_corners, dtype; value and gradient."""
    torch.manual_seed(0)
    logits = torch.randn(case["batch"], case["classes"], *case["in_hw"], dtype=getattr(torch, case["dtype"]))
    logits.requires_grad_()
    label = torch.randint(0, case["classes"], (case["batch"], *case["out_hw"]))
    label[:, :: case["out_hw"][0] // 10] = 255  # about a tenth ignored, as in Cityscapes
    value = VALUES[contestant]
    return lambda: value(case, logits, label).backward()


def _segnl(case: Case, logits: Tensor, label: Tensor) -> Tensor:
    """As training calls it."""
    from segnl.losses.cross_entropy import CrossEntropyConfig, CrossEntropyLoss
    from segnl.losses.ohem import OHEMConfig, OHEMLoss

    if case["loss"] == "ohem":
        return OHEMLoss(OHEMConfig(threshold=0.7, min_kept=100_000), align_corners=case["align_corners"])(logits, label)
    return CrossEntropyLoss(CrossEntropyConfig(), align_corners=case["align_corners"])(logits, label)


def _plain(case: Case, logits: Tensor, label: Tensor) -> Tensor:
    """What training loops write: everything upsampled, then torch's cross-entropy."""
    up = F.interpolate(logits, case["out_hw"], mode="bilinear", align_corners=case["align_corners"])
    if case["loss"] == "cross_entropy":
        return F.cross_entropy(up, label, ignore_index=255)
    losses = F.cross_entropy(up, label, ignore_index=255, reduction="none").flatten()
    valid = label.flatten() != 255
    probability = (-losses.detach()).exp().masked_fill(~valid, 2)
    limit = probability.kthvalue(min(100_000, int(valid.sum()))).values.clamp(min=0.7)
    return losses[valid & (probability <= limit)].mean()


def _bands(case: Case, logits: Tensor, label: Tensor) -> Tensor:
    """The plain form of segnl/ops/pixel_loss.py, which GPUs run; the result has the loss's gradient, not its value."""
    from segnl.ops.pixel_loss import ohem_label, reference_cross_entropy_sum, reference_pixel_losses

    settings = {"align_corners": case["align_corners"]}
    if case["loss"] == "ohem":
        losses = reference_pixel_losses(logits.detach(), label, **settings)
        label = ohem_label(label, losses, threshold=0.7, min_kept=100_000)
    settings |= {"class_weight": None, "label_smoothing": 0.0, "wants_gradient": True}
    _, grad = reference_cross_entropy_sum(logits.detach(), label, **settings)
    return (logits * grad).sum() / (label != 255).sum()


VALUES = {"segnl": _segnl, "bands": _bands, "plain": _plain}
