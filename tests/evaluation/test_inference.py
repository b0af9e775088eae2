"""Modes of inference against compositions written out by hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import segnl.evaluation.inference as module
from segnl.core.errors import MachineError
from segnl.evaluation.inference import (
    ClassScores,
    LogitScores,
    ResizedScores,
    slide_inference,
    whole_inference,
    window_starts,
)
from segnl.runs.recipe import EvalConfig


def infer(predict, image: Tensor, out_hw: tuple[int, int], *, input_hws=(), align_corners=False, **cfg) -> ClassScores:
    cfg = EvalConfig(mode="slide" if "window_hw" in cfg else "whole", **cfg)
    return module.infer(predict, image, out_hw, cfg, input_hws=input_hws, align_corners=align_corners)


ROOT = Path(__file__).resolve().parents[2]
HW = (23, 37)


def image_of(hw: tuple[int, int] = HW, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *hw, generator=torch.Generator().manual_seed(0))


def pointwise(image: Tensor) -> Tensor:
    """A network that sees one pixel at a time: 5 classes at image size."""
    weight = torch.randn(5, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    return F.conv2d(image, weight)


def strided(image: Tensor) -> Tensor:
    """A network of output stride 8 that sees its surroundings: 5 classes at a size rounded up."""
    weight = torch.randn(5, 3, 9, 9, generator=torch.Generator().manual_seed(2)) / 9
    return F.conv2d(image, weight, stride=8, padding=4)


def all_rows(scores: ClassScores) -> Tensor:
    return torch.cat([band for _, band in scores.bands(rows=7)], dim=2)


def upsampled(x: Tensor, hw: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=hw, mode="bilinear", align_corners=False)


def slid_by_hand(predict, image: Tensor, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Pads every window's scores to the image's size, adds them up and divides: f32 `b k H W`."""
    (h, w), (wh, ww) = image.shape[2:], window
    total, times = torch.zeros(1), torch.zeros(h, w)
    for i in range((max(h - wh, 0) + stride[0] - 1) // stride[0] + 1):
        for j in range((max(w - ww, 0) + stride[1] - 1) // stride[1] + 1):
            y, x = max(0, min(i * stride[0], h - wh)), max(0, min(j * stride[1], w - ww))
            crop = image[:, :, y : y + wh, x : x + ww]
            scores = upsampled(predict(crop), tuple(crop.shape[2:]))
            total = total + F.pad(scores, (x, w - x - scores.shape[3], y, h - y - scores.shape[2]))
            times[y : y + wh, x : x + ww] += 1
    assert times.min() >= 1
    return total / times


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)  # a few float32 interpolations and sums


@pytest.mark.parametrize("out_hw", [HW, (40, 61), (11, 13)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_whole_upsamples_the_logits_once_to_the_labels_size(out_hw: tuple[int, int], align_corners: bool) -> None:
    scores = infer(strided, image_of(), out_hw, align_corners=align_corners)
    expected = F.interpolate(strided(image_of()), size=out_hw, mode="bilinear", align_corners=align_corners)
    close(all_rows(scores), expected)
    assert torch.equal(scores.argmax(), expected.argmax(1).to(torch.uint8))


@pytest.mark.parametrize("predict", [pointwise, strided])
@pytest.mark.parametrize(("window", "stride"), [((16, 16), (10, 11)), ((16, 24), (16, 24)), ((23, 8), (5, 3))])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_sliding_equals_padding_and_adding(predict, window, stride, batch_size: int) -> None:
    scores = slide_inference(predict, image_of(), window, stride, HW, align_corners=False, batch_size=batch_size)
    expected = slid_by_hand(predict, image_of(), window, stride)
    close(all_rows(scores), expected)
    assert torch.equal(scores.argmax(), expected.argmax(1).to(torch.uint8))


def test_sliding_without_overlap_equals_whole_for_a_network_that_sees_one_pixel() -> None:
    image = image_of((24, 36))
    slid = slide_inference(pointwise, image, (8, 12), (8, 12), (24, 36), align_corners=False)
    assert torch.equal(all_rows(slid), all_rows(whole_inference(pointwise, image, (24, 36), align_corners=False)))


@pytest.mark.parametrize("predict", [pointwise, strided])
def test_a_window_larger_than_the_image_shrinks_to_it(predict) -> None:
    slid = infer(predict, image_of(), HW, window_hw=(64, 20), stride_hw=(40, 20))
    close(all_rows(slid), slid_by_hand(predict, image_of(), (64, 20), (40, 20)))
    covering = infer(predict, image_of(), HW, window_hw=(64, 64), stride_hw=(40, 40))
    close(all_rows(covering), all_rows(infer(predict, image_of(), HW)))


@pytest.mark.parametrize("out_hw", [(46, 74), (15, 60)])
def test_sliding_scores_are_resized_from_the_images_size_to_the_labels(out_hw: tuple[int, int]) -> None:
    slid = infer(strided, image_of(), out_hw, window_hw=(16, 16), stride_hw=(11, 11))
    assert isinstance(slid, ResizedScores)
    close(all_rows(slid), upsampled(slid_by_hand(strided, image_of(), (16, 16), (11, 11)), out_hw))


def test_flip_and_scales_equal_a_composition_by_hand() -> None:
    image, out_hw, scales = image_of(), (29, 41), (0.5, 1.0, 1.75)
    sizes = [(int(HW[0] * scale + 0.5), int(HW[1] * scale + 0.5)) for scale in scales]
    scores = infer(strided, image, out_hw, input_hws=sizes, flip=True)
    total = torch.zeros(1)
    for size in sizes:
        scaled = upsampled(image, size)
        total = total + upsampled(strided(scaled), out_hw).softmax(1)
        total = total + upsampled(strided(scaled.flip(3)), out_hw).softmax(1).flip(3)
    close(all_rows(scores), total / 6)
    assert torch.equal(scores.argmax(), total.argmax(1).to(torch.uint8))


def test_flip_and_sliding_compose() -> None:
    image = image_of()
    scores = infer(strided, image, HW, window_hw=(16, 16), stride_hw=(9, 9), flip=True)
    straight = slid_by_hand(strided, image, (16, 16), (9, 9)).softmax(1)
    flipped = slid_by_hand(strided, image.flip(3), (16, 16), (9, 9)).softmax(1).flip(3)
    close(all_rows(scores), (straight + flipped) / 2)


def test_one_scale_other_than_1_gives_logits_at_the_labels_size() -> None:
    scores = infer(strided, image_of(), HW, input_hws=[(46, 74)])
    assert isinstance(scores, LogitScores)
    close(all_rows(scores), upsampled(strided(upsampled(image_of(), (46, 74))), HW))


@pytest.mark.parametrize("rows", [1, 2, 5, 100])
@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"window_hw": (9, 9), "stride_hw": (5, 7)}])
def test_bands_of_any_height_give_the_same_labels(rows: int, settings: dict) -> None:
    scores = infer(strided, image_of(), (31, 43), **settings)
    labels = torch.full((2, 31, 43), 255, dtype=torch.uint8)
    for first, band in scores.bands(rows):
        labels[:, first : first + band.shape[2]] = band.argmax(1).to(torch.uint8)
    assert torch.equal(labels, scores.argmax())


def test_bfloat16_logits_give_float32_scores() -> None:
    scores = infer(lambda image: strided(image).bfloat16(), image_of(), HW, flip=True)
    assert all_rows(scores).dtype == torch.float32


def test_nothing_holds_the_scores_of_a_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows stay at feature size; a network with logits at image size is summed in place instead."""
    slid = slide_inference(strided, image_of(), (16, 16), (11, 11), HW, align_corners=False)
    held = sum(window.logits.numel() for window in slid.windows)  # type: ignore[attr-defined]
    assert held < 2 * 5 * HW[0] * HW[1] / 4
    dense = slide_inference(pointwise, image_of(), (16, 16), (11, 11), HW, align_corners=False)
    assert isinstance(dense, LogitScores)
    assert dense.logits.shape == (2, 5, *HW)


MEMORY = """
import torch, torch.nn.functional as F
from segnl.evaluation.inference import infer
from segnl.ops.upsampled_labels import winners
from segnl.runs.recipe import EvalConfig

torch.set_num_threads(1)
weight = torch.randn(150, 3, 1, 1)

def memory_mib(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

def label(image, rows):
    hw = tuple(image.shape[2:])
    cfg = EvalConfig(mode="slide", window_hw=(512, 512), stride_hw=(341, 341), batch_size=1, flip=True)
    sizes = [(hw[0] // 2, hw[1] // 2), hw]
    scores = infer(lambda x: F.conv2d(F.avg_pool2d(x, 8, ceil_mode=True), weight), image, hw, cfg, input_hws=sizes)
    for first in rows:
        winners(scores.rows(first, first + 16))

label(torch.randn(1, 3, 64, 128), (0, 16))  # the libraries' own buffers
image = torch.randn(1, 3, 1024, 2048)
open("/proc/self/clear_refs", "w").write("5")
before = memory_mib("VmRSS")
label(image, (0, 336, 496))
print(memory_mib("VmHWM") - before)
"""


def test_150_classes_slid_flipped_and_scaled_at_1024x2048_need_less_than_2_gb() -> None:
    """Three bands, in a process of its own; `bench eval` goes through the whole image."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("no /proc/self/clear_refs: a process's peak memory cannot be measured here")
    process = subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, check=True, capture_output=True, text=True)
    peak_mib = float(process.stdout)
    assert 100 < peak_mib < 700  # the windows' logits take 98; the scores of a single view would take 1200


def test_no_graph_is_kept() -> None:
    weight = torch.nn.Parameter(torch.randn(5, 3, 1, 1))
    assert not all_rows(infer(lambda image: F.conv2d(image, weight), image_of(), HW)).requires_grad


def limited(max_pixels: int):
    """Returns a network that runs out of memory beyond max_pixels, and a list of the shapes that it is called with."""
    seen: list[tuple[int, ...]] = []

    def predict(image: Tensor) -> Tensor:
        seen.append(tuple(image.shape))
        if image.shape[0] * image.shape[2] * image.shape[3] > max_pixels:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pointwise(image)

    return predict, seen


def test_windows_that_do_not_fit_go_one_by_one_and_then_are_halved_with_a_warning() -> None:
    predict, seen = limited(70 * 70)
    image = image_of((150, 140), batch=1)
    with pytest.warns(UserWarning, match=r"a window of \(140, 128\) does not fit.*\(70, 64\)"):
        scores = slide_inference(predict, image, (140, 128), (100, 100), (150, 140), align_corners=False, batch_size=2)
    close(all_rows(scores), pointwise(image))
    assert [shape[0] for shape in seen[:2]] == [2, 1]
    assert seen[-1] == (1, 3, 70, 64)


def test_an_image_or_a_window_that_cannot_fit_into_memory_is_an_error() -> None:
    predict, _ = limited(10)
    with pytest.raises(MachineError, match="does not fit into memory"):
        slide_inference(predict, image_of(), (16, 16), (16, 16), HW, align_corners=False)
    with pytest.raises(MachineError, match=r"eval\.mode=slide"):
        whole_inference(predict, image_of(), HW, align_corners=False)


def test_other_errors_of_the_network_are_not_hidden() -> None:
    def broken(image: Tensor) -> Tensor:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        infer(broken, image_of(), HW)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        infer(broken, image_of(), HW, window_hw=(8, 8), stride_hw=(8, 8))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="pixels between would go unseen"):
        slide_inference(pointwise, image_of(), (8, 8), (8, 9), HW, align_corners=False)
    with pytest.raises(ValueError, match="at least 1"):
        slide_inference(pointwise, image_of(), (8, 8), (0, 8), HW, align_corners=False)
    with pytest.raises(ValueError, match="scale: 0"):
        module.scaled_hw(HW, 0.0)
    with pytest.raises(ValueError, match="rows: 0"):
        next(infer(pointwise, image_of(), HW).bands(0))


@pytest.mark.parametrize(("length", "window", "stride"), [(10, 4, 3), (10, 4, 4), (9, 4, 4), (4, 4, 1), (3, 4, 2)])
def test_windows_cover_an_axis_and_stay_inside(length: int, window: int, stride: int) -> None:
    starts = window_starts(length, window, stride)
    covered = {pixel for start in starts for pixel in range(start, min(start + window, length))}
    assert covered == set(range(length))
    assert max(starts) + window <= max(length, window)
    assert len(starts) == len(set(starts))


def test_scaled_sizes_round_half_up_and_never_vanish() -> None:
    assert module.scaled_hw((23, 37), 0.5) == (12, 19)
    assert module.scaled_hw((1, 3), 0.1) == (1, 1)
