"""The banded losses against loops over pixels in float64 and against upsampling everything."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.ops import pixel_loss
from segnl.ops.kernels import pixel_tiles
from segnl.ops.pixel_loss import (
    hardest_label,
    ohem_label,
    per_pixel_loss,
    pixel_cross_entropy,
    pixel_weight_sum,
    reference_cross_entropy_sum,
    reference_pixel_losses,
)
from segnl.ops.resize import resize

K, HW = 5, (33, 50)


def draw(dtype: torch.dtype = torch.float64, in_hw: tuple[int, int] = (7, 11), b: int = 2) -> tuple[Tensor, Tensor]:
    """Logits, and a label with a fifth of its pixels ignored and one class absent."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(b, K, *in_hw, dtype=torch.float64, generator=generator)
    label = torch.randint(0, K - 1, (b, *HW), generator=generator)
    label[torch.rand(b, *HW, generator=generator) < 0.2] = 255
    return logits.to(dtype).requires_grad_(), label


def pixel_ohem_cross_entropy(
    logits: Tensor, label: Tensor, *, align_corners: bool, threshold: float = 0.7, min_kept: int = 100_000
) -> Tensor:
    """Two passes, as losses/ohem.py takes them."""
    pixel_losses = per_pixel_loss(logits, label, align_corners=align_corners)
    kept = ohem_label(label, pixel_losses, threshold=threshold, min_kept=min_kept)
    return pixel_cross_entropy(logits, kept, align_corners=align_corners)


def by_loops(up: Tensor, label: Tensor, class_weight: Tensor, smoothing: float) -> tuple[float, float]:
    """The sum over pixels, and the sum of their labels' class weights."""
    total = weight_sum = 0.0
    for image, row, column in (label != 255).nonzero().tolist():
        scores = [float(x) for x in up[image, :, row, column].detach()]
        true_class = int(label[image, row, column])
        log_sum = math.log(sum(math.exp(score) for score in scores))
        for k, score in enumerate(scores):
            target = (1 - smoothing) * (k == true_class) + smoothing / len(scores)
            total += target * float(class_weight[k]) * (log_sum - score)
        weight_sum += float(class_weight[true_class])
    return total, weight_sum


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_value_matches_a_loop_over_pixels(align_corners: bool, smoothing: float, is_weighted: bool) -> None:
    logits, label = draw(b=1)
    class_weight = torch.tensor([0.5, 1.0, 2.0, 0.25, 3.0], dtype=torch.float64) if is_weighted else None
    up = resize(logits, HW, align_corners=align_corners)
    ones = torch.ones(K) if class_weight is None else class_weight
    total, weight_sum = by_loops(up, label, ones, smoothing)
    for normalize_by, divisor in (("valid", weight_sum), ("all", label.numel()), (7.0, 7.0), (torch.tensor(7), 7.0)):
        loss = pixel_cross_entropy(
            logits,
            label,
            align_corners=align_corners,
            class_weight=class_weight,
            label_smoothing=smoothing,
            normalize_by=normalize_by,  # type: ignore[arg-type]
        )
        assert loss.dtype == torch.float64
        assert loss.item() == pytest.approx(total / divisor, rel=1e-13)
    plain, _ = reference_cross_entropy_sum(logits.detach(), label, class_weight, align_corners, smoothing, False)
    assert plain.item() == pytest.approx(total, rel=1e-13)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("in_hw", [(7, 11), (1, 11), (7, 1), (33, 50), (40, 60)])
@pytest.mark.parametrize("tile_numbers", [1, 1 << 10, 1 << 18])
def test_value_and_gradient_equal_upsampling_everything(
    align_corners: bool, in_hw: tuple[int, int], tile_numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_tiles, "TILE_NUMBERS", tile_numbers)
    monkeypatch.setattr(pixel_tiles, "MIN_BAND_ROWS", 1)
    monkeypatch.setattr(pixel_tiles, "MAX_BAND_COLUMNS", 13)
    logits, label = draw(in_hw=in_hw)
    class_weight = torch.tensor([0.5, 1.0, 2.0, 0.25, 3.0], dtype=torch.float64)
    up = resize(logits, HW, align_corners=align_corners)
    plain = F.cross_entropy(up, label, class_weight, ignore_index=255, label_smoothing=0.1)
    ours = pixel_cross_entropy(
        logits,
        label,
        align_corners=align_corners,
        class_weight=class_weight,
        label_smoothing=0.1,
    )
    assert abs(ours.item() - plain.item()) <= 1e-12
    (near,), (exact,) = torch.autograd.grad(ours, logits), torch.autograd.grad(plain, logits)
    assert (near - exact).abs().max() <= 1e-12 * exact.abs().max()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("in_hw", [(7, 11), (1, 11), (40, 60)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_plain_form_equals_upsampling_everything(
    align_corners: bool,
    in_hw: tuple[int, int],
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits, label = draw(dtype, in_hw=in_hw)
    precise = logits.detach().double().requires_grad_()
    up = resize(precise, HW, align_corners=align_corners)
    exact = F.cross_entropy(up, label, ignore_index=255, label_smoothing=0.1, reduction="none")
    (exact_grad,) = torch.autograd.grad(exact.sum(), precise)
    for band_numbers in (pixel_loss.BAND_NUMBERS, 2 * K * HW[1] * 6):  # one band, and bands of 6 rows
        monkeypatch.setattr(pixel_loss, "BAND_NUMBERS", band_numbers)
        total, grad = reference_cross_entropy_sum(logits.detach(), label, None, align_corners, 0.1, True)
        assert abs(total.item() - exact.sum().item()) <= tolerance * exact.sum().item()
        assert (grad - exact_grad).abs().max() <= tolerance * exact_grad.abs().max()
    losses = reference_pixel_losses(logits.detach(), label, align_corners)
    expected = F.cross_entropy(up, label, ignore_index=255, reduction="none").masked_fill(label == 255, -1)
    torch.testing.assert_close(losses.double(), expected, rtol=10 * tolerance, atol=10 * tolerance)


def test_float32_is_within_1e_6_of_float64() -> None:
    logits, label = draw(torch.float32)
    precise = logits.detach().double().requires_grad_()
    near, exact = (pixel_cross_entropy(x, label, align_corners=False) for x in (logits, precise))
    assert near.dtype == torch.float32
    assert abs(near.item() - exact.item()) <= 1e-6 * exact.item()
    (grad,), (exact_grad,) = torch.autograd.grad(near, logits), torch.autograd.grad(exact, precise)
    assert (grad - exact_grad).abs().max() <= 1e-6 * exact_grad.abs().max()


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_logits_are_summed_in_float32(dtype: torch.dtype, rounding: float) -> None:
    logits, label = draw(dtype)
    exact = pixel_cross_entropy(logits.detach().double(), label, align_corners=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = pixel_cross_entropy(logits, label, align_corners=False)
    assert loss.dtype == torch.float32
    assert abs(loss.item() - exact.item()) <= 1e-6 * exact.item()
    # As a gradient scaler does: float16 gradients of a mean over pixels would be 0.
    (grad,) = torch.autograd.grad(loss * 1024, logits)
    precise = logits.detach().double().requires_grad_()
    (exact_grad,) = torch.autograd.grad(pixel_cross_entropy(precise, label, align_corners=False) * 1024, precise)
    assert grad.dtype == dtype
    assert (grad.double() - exact_grad).abs().max() <= rounding * exact_grad.abs().max()


def test_gradcheck() -> None:
    logits, label = draw(in_hw=(3, 4), b=1)
    weight = torch.rand(K, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: pixel_cross_entropy(x, label, align_corners=False, class_weight=weight, label_smoothing=0.1),
        (logits,),
    )


@pytest.mark.parametrize("is_ohem", [False, True])
def test_an_all_ignored_label_gives_exactly_zero(is_ohem: bool) -> None:
    logits, label = draw(torch.float32)
    loss_of = pixel_ohem_cross_entropy if is_ohem else pixel_cross_entropy
    loss = loss_of(logits, torch.full_like(label, 255), align_corners=False)
    assert loss.item() == 0.0
    (grad,) = torch.autograd.grad(loss, logits)
    assert not grad.any()


def test_ignored_pixels_have_no_gradient() -> None:
    """Without interpolation each pixel has logits of its own."""
    logits, label = draw(in_hw=HW)
    (grad,) = torch.autograd.grad(pixel_cross_entropy(logits, label, align_corners=False, label_smoothing=0.1), logits)
    assert (grad.abs().sum(dim=1) > 0).equal(label != 255)


def test_same_batch_gives_the_same_bits() -> None:
    logits, label = draw(torch.float32)
    results = []
    for _ in range(2):
        loss = pixel_cross_entropy(logits, label, align_corners=True)
        results.append((loss, *torch.autograd.grad(loss, logits)))
    assert all(x.equal(y) for x, y in zip(*results, strict=True))


def test_scores_of_any_size_stay_finite() -> None:
    logits, label = draw(torch.float32)
    large = (logits.detach() * 1e4).requires_grad_()
    loss = pixel_cross_entropy(large, label, align_corners=False)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, large)[0].isfinite().all()


def test_backward_keeps_nothing_of_the_upsampled_size() -> None:
    logits, label = draw(torch.float32)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        pixel_cross_entropy(logits, label, align_corners=False)
    assert max(x.numel() for x in saved) == logits.numel()


def test_no_gradient_is_computed_unless_needed() -> None:
    logits, label = draw()
    value = pixel_cross_entropy(logits, label, align_corners=False)
    assert pixel_cross_entropy(logits.detach(), label, align_corners=False).equal(value.detach())
    with torch.no_grad():
        assert not pixel_cross_entropy(logits, label, align_corners=False).requires_grad


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_any_integer_dtype_are_accepted(dtype: torch.dtype) -> None:
    logits, label = draw()
    assert pixel_cross_entropy(logits, label.to(dtype), align_corners=False).equal(
        pixel_cross_entropy(logits, label, align_corners=False)
    )


def ohem_by_sorting(up: Tensor, label: Tensor, threshold: float, min_kept: int) -> Tensor:
    """CCNet's rule, written over a sorted list of the valid pixels' probabilities."""
    valid = label != 255
    chosen = label.masked_fill(~valid, 0)
    probability = up.softmax(dim=1).gather(1, chosen[:, None])[:, 0]
    in_order = sorted(probability[valid].tolist())
    limit = 1.0 if min_kept >= len(in_order) else max(threshold, in_order[min_kept - 1] if min_kept else 0.0)
    hard = valid & (probability <= limit)
    nll = -up.log_softmax(dim=1).gather(1, chosen[:, None])[:, 0]
    return nll[hard].mean() if hard.any() else (nll * 0).sum()


@pytest.mark.parametrize("threshold", [0.01, 0.7, 1.0])
@pytest.mark.parametrize("min_kept", [0, 1, 500, 2600, 3000, 100_000])  # about 2,640 of 3,300 pixels are valid
def test_ohem_keeps_the_pixels_of_the_rule(threshold: float, min_kept: int) -> None:
    logits, label = draw()
    exact = ohem_by_sorting(resize(logits, HW, align_corners=True), label, threshold, min_kept)
    ours = pixel_ohem_cross_entropy(logits, label, align_corners=True, threshold=threshold, min_kept=min_kept)
    torch.testing.assert_close(ours, exact, rtol=1e-12, atol=0)
    (grad,), (exact_grad,) = torch.autograd.grad(ours, logits), torch.autograd.grad(exact, logits)
    torch.testing.assert_close(grad, exact_grad, rtol=1e-10, atol=1e-14)


def test_hardest_fraction_keeps_the_greatest_losses() -> None:
    logits, label = draw()
    pixel_losses = per_pixel_loss(logits, label, align_corners=True)
    valid = pixel_losses[label != 255]
    assert (pixel_losses[label == 255] == -1).all()
    for fraction in (0.001, 0.25, 1.0):
        num_kept = math.ceil(fraction * valid.numel())
        kept = hardest_label(label, pixel_losses, fraction=fraction) != 255
        assert int(kept.sum()) == num_kept
        assert pixel_losses[kept].min() == valid.sort(descending=True).values[num_kept - 1]
    assert (hardest_label(torch.full_like(label, 255), torch.full_like(pixel_losses, -1), fraction=0.5) == 255).all()


def test_weight_sum_is_the_divisor_of_valid() -> None:
    _, label = draw()
    class_weight = torch.tensor([0.5, 1.0, 2.0, 0.25, 3.0])
    assert pixel_weight_sum(label).item() == (label != 255).sum().item()
    expected = sum(float(class_weight[int(x)]) for x in label[label != 255])
    assert pixel_weight_sum(label, class_weight=class_weight).item() == pytest.approx(expected)


@pytest.mark.parametrize("is_ohem", [False, True])
def test_compiles_in_one_graph_forward_and_backward(is_ohem: bool) -> None:
    logits, label = draw()

    def loss_of(x: Tensor) -> Tensor:
        if is_ohem:
            return pixel_ohem_cross_entropy(x, label, align_corners=False, min_kept=100)
        return pixel_cross_entropy(x, label, align_corners=False, label_smoothing=0.1)

    compiled, eager = torch.compile(loss_of, fullgraph=True, backend="aot_eager")(logits), loss_of(logits)
    torch.testing.assert_close(compiled, eager)
    expected = torch.autograd.grad(eager, logits)
    torch.testing.assert_close(torch.autograd.grad(compiled, logits), expected)


def test_wrong_arguments_are_named() -> None:
    logits, label = draw()
    with pytest.raises(ValueError, match=r"label: holds 5; expected 0\.\.4, or 255"):
        pixel_cross_entropy(logits, label.masked_fill(label == 0, 5), align_corners=False)
    with pytest.raises(ValueError, match=r"label: holds -1; expected 0\.\.4"):
        pixel_cross_entropy(logits, label.masked_fill(label == 0, -1), align_corners=False)
    with pytest.raises(ValueError, match=r"logits: torch.float64 \(5, 7, 11\); expected floating `b k h w`"):
        pixel_cross_entropy(logits[0], label, align_corners=False)
    with pytest.raises(ValueError, match=r"label: shape \(1, 33, 50\); expected `b H W` with b=2"):
        pixel_cross_entropy(logits, label[:1], align_corners=False)
    with pytest.raises(ValueError, match=r"label: torch.float32; expected an integer dtype"):
        pixel_cross_entropy(logits, label.float(), align_corners=False)
    with pytest.raises(ValueError, match=r"class_weight: torch.float32 \(3,\); expected floating `k` with k=5"):
        pixel_cross_entropy(logits, label, align_corners=False, class_weight=torch.ones(3))
    with pytest.raises(ValueError, match=r"label_smoothing: 1.0; expected"):
        pixel_cross_entropy(logits, label, align_corners=False, label_smoothing=1.0)
    with pytest.raises(ValueError, match="normalize_by: 'pixels'; expected 'valid', 'all' or a number"):
        pixel_cross_entropy(logits, label, align_corners=False, normalize_by="pixels")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"threshold: 1.5; expected a probability"):
        pixel_ohem_cross_entropy(logits, label, align_corners=False, threshold=1.5)
    with pytest.raises(ValueError, match="min_kept: -1; expected at least 0"):
        pixel_ohem_cross_entropy(logits, label, align_corners=False, min_kept=-1)
    with pytest.raises(ValueError, match=r"fraction: 0.0; expected"):
        hardest_label(label, label.double(), fraction=0.0)


def test_ohem_label_ignores_the_easy_pixels_alone() -> None:
    label = torch.tensor([[[0, 1, 255, 2]]])
    pixel_losses = torch.tensor([[[0.1, 2.0, -1.0, 0.5]]])
    kept = ohem_label(label, pixel_losses, threshold=0.5, min_kept=0)
    assert kept.tolist() == [[[255, 1, 255, 255]]]
    assert ohem_label(label, pixel_losses, threshold=0.5, min_kept=2).tolist() == [[[255, 1, 255, 2]]]
    assert ohem_label(label, pixel_losses, threshold=0.5, min_kept=3).equal(label)
