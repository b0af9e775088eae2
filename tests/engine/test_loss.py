import math

import pytest
import torch
import torch.nn.functional as F

from segnl.engine.loss import CrossEntropyConfig, OhemConfig, losses
from segnl.models.segmenter import Logits


def example():
    generator = torch.Generator().manual_seed(0)
    main = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    aux = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, 3, (2, 33, 41), generator=generator)
    label[0, :9] = 255
    return Logits(main, {"auxiliary": aux}), label


@pytest.mark.parametrize("divide_by", ["valid", "all"])
def test_parts_are_the_plain_cross_entropies_and_the_aux_one_is_weighted(divide_by):
    logits, label = example()
    cfg = CrossEntropyConfig(name="cross_entropy", divide_by=divide_by, label_smoothing=0.1)
    parts = losses(cfg, logits, label, aux_weight=0.4, align_corners=False)
    count = (label != 255).sum() if divide_by == "valid" else label.numel()
    for name, weight, each in (("main", 1.0, logits.main), ("auxiliary", 0.4, logits.aux["auxiliary"])):
        up = F.interpolate(each, size=(33, 41), mode="bilinear", align_corners=False)
        plain = weight * F.cross_entropy(up, label, ignore_index=255, label_smoothing=0.1, reduction="sum") / count
        torch.testing.assert_close(parts[name], plain, rtol=1e-10, atol=0)


def test_class_weights_reach_every_part_as_torch_has_them():
    logits, label = example()
    weight = torch.tensor([1.0, 5.0, 0.5], dtype=torch.float64)
    cfg = CrossEntropyConfig(name="cross_entropy")
    parts = losses(cfg, logits, label, aux_weight=1.0, align_corners=False, class_weight=weight)
    for name, each in (("main", logits.main), ("auxiliary", logits.aux["auxiliary"])):
        up = F.interpolate(each, size=(33, 41), mode="bilinear", align_corners=False)
        torch.testing.assert_close(
            parts[name], F.cross_entropy(up, label, weight, ignore_index=255), rtol=1e-10, atol=0
        )


def test_ohem_is_for_the_main_logits_alone():
    logits, label = example()
    cfg = OhemConfig(name="ohem", threshold=0.7, min_kept=100)
    parts = losses(cfg, logits, label, aux_weight=1.0, align_corners=True)
    up = F.interpolate(logits.aux["auxiliary"], size=(33, 41), mode="bilinear", align_corners=True)
    torch.testing.assert_close(parts["auxiliary"], F.cross_entropy(up, label, ignore_index=255))
    up = F.interpolate(logits.main, size=(33, 41), mode="bilinear", align_corners=True)
    each = F.cross_entropy(up, label, ignore_index=255, reduction="none")[label != 255]
    hard = each[each >= max(-math.log(0.7), 0.0)]
    torch.testing.assert_close(parts["main"], hard.mean())


def test_a_void_batch_is_zero_with_zero_gradients():
    logits, label = example()
    label[:] = 255
    for cfg in (CrossEntropyConfig(name="cross_entropy"), OhemConfig(name="ohem")):
        total = sum(losses(cfg, logits, label, aux_weight=0.4, align_corners=False).values())
        grads = torch.autograd.grad(total, [logits.main, logits.aux["auxiliary"]])
        assert float(total.detach()) == 0
        assert all(not grad.any() for grad in grads)
