import pytest
import torch
import torch.nn.functional as F

from segnl.losses.base import StepNormalizer
from tests.losses.test_base import example, make, upsampled


@pytest.mark.parametrize("divide_by", ["valid", "all"])
def test_main_and_auxiliary_losses_are_plain_cross_entropies_and_the_auxiliary_is_weighted(divide_by):
    logits, label = example()
    loss = make("cross_entropy", divide_by=divide_by, label_smoothing=0.1)
    losses = loss.by_name(logits, label, StepNormalizer(loss.divisor(label)), {"auxiliary": 0.4})
    count = (label != 255).sum() if divide_by == "valid" else label.numel()
    for name, weight, low in (("main", 1.0, logits.main), ("auxiliary", 0.4, logits.aux["auxiliary"])):
        summed = F.cross_entropy(upsampled(low), label, ignore_index=255, label_smoothing=0.1, reduction="sum")
        torch.testing.assert_close(losses[name], weight * summed / count, rtol=1e-10, atol=0)


def test_class_weights_reach_main_and_auxiliary_losses_as_torch_has_them():
    logits, label = example()
    weight = torch.tensor([1.0, 5.0, 0.5], dtype=torch.float64)
    loss = make("cross_entropy", weight)
    losses = loss.by_name(logits, label, StepNormalizer(loss.divisor(label)), {})
    for name, low in (("main", logits.main), ("auxiliary", logits.aux["auxiliary"])):
        plain = F.cross_entropy(upsampled(low), label, weight, ignore_index=255)
        torch.testing.assert_close(losses[name], plain, rtol=1e-10, atol=0)
