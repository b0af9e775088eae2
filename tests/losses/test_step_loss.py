import math

import pytest
import torch
import torch.nn.functional as F

from segnl.losses.step_loss import CrossEntropyConfig, OhemConfig, Share, losses, step_count
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
    parts = losses(cfg, logits, label, aux_weights={"auxiliary": 0.4}, align_corners=False)
    count = (label != 255).sum() if divide_by == "valid" else label.numel()
    for name, weight, each in (("main", 1.0, logits.main), ("auxiliary", 0.4, logits.aux["auxiliary"])):
        up = F.interpolate(each, size=(33, 41), mode="bilinear", align_corners=False)
        plain = weight * F.cross_entropy(up, label, ignore_index=255, label_smoothing=0.1, reduction="sum") / count
        torch.testing.assert_close(parts[name], plain, rtol=1e-10, atol=0)


def test_class_weights_reach_every_part_as_torch_has_them():
    logits, label = example()
    weight = torch.tensor([1.0, 5.0, 0.5], dtype=torch.float64)
    cfg = CrossEntropyConfig(name="cross_entropy")
    parts = losses(cfg, logits, label, aux_weights={"auxiliary": 1.0}, align_corners=False, class_weight=weight)
    for name, each in (("main", logits.main), ("auxiliary", logits.aux["auxiliary"])):
        up = F.interpolate(each, size=(33, 41), mode="bilinear", align_corners=False)
        torch.testing.assert_close(
            parts[name], F.cross_entropy(up, label, weight, ignore_index=255), rtol=1e-10, atol=0
        )


def test_ohem_is_for_the_main_logits_alone():
    logits, label = example()
    cfg = OhemConfig(name="ohem", threshold=0.7, min_kept=100)
    parts = losses(cfg, logits, label, aux_weights={"auxiliary": 1.0}, align_corners=True)
    up = F.interpolate(logits.aux["auxiliary"], size=(33, 41), mode="bilinear", align_corners=True)
    torch.testing.assert_close(parts["auxiliary"], F.cross_entropy(up, label, ignore_index=255))
    up = F.interpolate(logits.main, size=(33, 41), mode="bilinear", align_corners=True)
    each = F.cross_entropy(up, label, ignore_index=255, reduction="none")[label != 255]
    hard = each[each >= max(-math.log(0.7), 0.0)]
    torch.testing.assert_close(parts["main"], hard.mean())


def test_ohem_of_a_fraction_is_the_mean_over_that_many_hardest_pixels():
    logits, label = example()
    cfg = OhemConfig(name="ohem", fraction=0.3)
    # align_corners: else logits repeat along the border, and pixels of equal loss are all kept
    parts = losses(cfg, logits, label, aux_weights={"auxiliary": 1.0}, align_corners=True)
    up = F.interpolate(logits.main, size=(33, 41), mode="bilinear", align_corners=True)
    each = F.cross_entropy(up, label, ignore_index=255, reduction="none")[label != 255]
    hardest = each.sort(descending=True).values[: math.ceil(0.3 * each.numel())]
    torch.testing.assert_close(parts["main"], hardest.mean())


@pytest.mark.parametrize("divide_by", ["valid", "all"])
@pytest.mark.parametrize("name", ["cross_entropy", "ohem"])
def test_the_pieces_of_a_step_add_up_to_the_whole(name, divide_by):
    logits, label = example()
    label[1] = 255  # one of the pieces has no valid pixel
    weight = torch.tensor([1.0, 5.0, 0.5], dtype=torch.float64)
    # Mined are pieces: all pixels here, or a piece would choose others than the whole does.
    cfg = OhemConfig(name="ohem", fraction=1.0, divide_by=divide_by) if name == "ohem" else None
    cfg = cfg or CrossEntropyConfig(name="cross_entropy", divide_by=divide_by)
    whole = losses(cfg, logits, label, aux_weights={"auxiliary": 0.4}, align_corners=False, class_weight=weight)
    share = Share(step_count(cfg, label, weight), pieces=2)
    kept = []
    for i in range(2):
        piece = Logits(logits.main[i : i + 1], {"auxiliary": logits.aux["auxiliary"][i : i + 1]})
        kept.append(
            losses(
                cfg,
                piece,
                label[i : i + 1],
                aux_weights={"auxiliary": 0.4},
                align_corners=False,
                class_weight=weight,
                share=share,
            )
        )
    torch.testing.assert_close(kept[0]["auxiliary"] + kept[1]["auxiliary"], whole["auxiliary"])
    # OHEM's mean is each piece's own; with half of them void it is half of the whole's.
    factor = 0.5 if name == "ohem" and divide_by == "valid" else 1.0
    torch.testing.assert_close(kept[0]["main"] + kept[1]["main"], factor * whole["main"])


def test_min_kept_is_shared_out_among_pieces_and_ranks():
    logits, label = example()
    cfg = OhemConfig(name="ohem", threshold=1e-6, min_kept=400)
    up = F.interpolate(logits.main, size=(33, 41), mode="bilinear", align_corners=True)
    each = F.cross_entropy(up, label, ignore_index=255, reduction="none")[label != 255]
    for pieces, world in ((1, 1), (2, 1), (2, 2)):
        share = Share(step_count(cfg, label, None), pieces, world)
        (main, *_) = losses(
            cfg, logits, label, aux_weights={"auxiliary": 1.0}, align_corners=True, share=share
        ).values()
        hardest = each.sort(descending=True).values[: 400 // (pieces * world)]
        torch.testing.assert_close(main, hardest.mean() / pieces)


def test_a_void_batch_is_zero_with_zero_gradients():
    logits, label = example()
    label[:] = 255
    for cfg in (CrossEntropyConfig(name="cross_entropy"), OhemConfig(name="ohem")):
        total = sum(losses(cfg, logits, label, aux_weights={"auxiliary": 0.4}, align_corners=False).values())
        grads = torch.autograd.grad(total, [logits.main, logits.aux["auxiliary"]])
        assert float(total.detach()) == 0
        assert all(not grad.any() for grad in grads)
