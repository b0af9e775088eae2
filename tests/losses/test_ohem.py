import math

import torch
import torch.nn.functional as F

from segnl.core.distributed import ProcessGroup
from segnl.losses.base import StepNormalizer
from tests.losses.test_base import example, make, upsampled


def pixel_losses(logits, label):
    """The cross-entropy of every valid pixel, one axis."""
    up = upsampled(logits, align_corners=True)
    return F.cross_entropy(up, label, ignore_index=255, reduction="none")[label != 255]


def test_ohem_is_for_the_main_logits_alone():
    logits, label = example()
    loss = make("ohem", align_corners=True, threshold=0.7, min_kept=100)
    losses = loss.by_name(logits, label, StepNormalizer(loss.divisor(label)), {})
    torch.testing.assert_close(losses["auxiliary"], pixel_losses(logits.aux["auxiliary"], label).mean())
    main = pixel_losses(logits.main, label)
    torch.testing.assert_close(losses["main"], main[main >= -math.log(0.7)].mean())


def test_ohem_of_a_fraction_is_the_mean_over_that_many_hardest_pixels():
    logits, label = example()
    # align_corners: else logits repeat along the border, and pixels of equal loss are all kept
    main = pixel_losses(logits.main, label)
    hardest = main.sort(descending=True).values[: math.ceil(0.3 * main.numel())]
    torch.testing.assert_close(make("ohem", align_corners=True, fraction=0.3)(logits.main, label), hardest.mean())


class TwoRanks(ProcessGroup):
    """Two processes with the same pixels."""

    def all_reduce_sum(self, value):
        return value


def test_min_kept_is_shared_out_among_micro_batches_and_ranks():
    logits, label = example()
    loss = make("ohem", align_corners=True, threshold=1e-6, min_kept=400)
    main = pixel_losses(logits.main, label)
    for micro_batches, world_size in ((1, 1), (2, 1), (2, 2)):
        step = StepNormalizer(loss.divisor(label), micro_batches, TwoRanks(0, world_size))
        hardest = main.sort(descending=True).values[: 400 // (micro_batches * world_size)]
        torch.testing.assert_close(loss.of_step(logits.main, label, step), hardest.mean() / micro_batches)
