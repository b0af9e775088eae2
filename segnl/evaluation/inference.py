"""Inference on one image: whole or in sliding windows, at several scales, flipped.

A `Predict` returns logits at feature size. A `ClassScores` computes an image's scores from them, one band of rows after
another, so that no tensor `b k H W` is needed. `infer` applies the inference settings.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segnl.core.errors import MachineError
from segnl.ops.resize import resize, resize_rows, taps
from segnl.ops.upsampled_labels import band_rows, upsampled_labels, winners
from segnl.runs.recipe import EvalConfig

HW = tuple[int, int]
Predict = Callable[[Tensor], Tensor]
"""Maps a normalised image f32 `b 3 H W` to logits `b k h w`, of any floating type and any h w."""

MIN_WINDOW_PX = 64  # a machine without memory for such a window cannot evaluate the network


class ClassScores:
    """Class scores f32 `b k H W`, computed for the requested rows only."""

    are_probabilities = False

    def __init__(self, batch: int, num_classes: int, hw: HW, device: torch.device) -> None:
        self.batch, self.num_classes, self.hw, self.device = batch, num_classes, hw, device

    def rows(self, first: int, last: int) -> Tensor:
        """Returns rows [first, last), f32 `b k last-first W`."""
        raise NotImplementedError

    def bands(self, rows: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yields `(first row, f32 b k rows W)` from top to bottom. rows: by default as many as fit the cache."""
        if rows is None:
            rows = band_rows(self.batch, self.num_classes, self.hw, self.device)
        if rows < 1:
            raise ValueError(f"rows: {rows}; expected at least 1")
        for first in range(0, self.hw[0], rows):
            yield first, self.rows(first, min(first + rows, self.hw[0]))

    def argmax(self) -> Tensor:
        """Returns the class with the highest score, u8 `b H W`; of equal scores the lowest class."""
        out = torch.empty(self.batch, *self.hw, dtype=torch.uint8, device=self.device)
        for first, band in self.bands():
            out[:, first : first + band.shape[2]] = winners(band)
        return out

    def probabilities(self) -> Tensor:
        """Returns f32 `b k H W`, which sums to 1 over the classes."""
        bands = [band if self.are_probabilities else band.softmax(dim=1) for _, band in self.bands()]
        return torch.cat(bands, dim=2)


class LogitScores(ClassScores):
    """Logits `b k h w`, upsampled to hw."""

    def __init__(self, logits: Tensor, hw: HW, *, align_corners: bool) -> None:
        super().__init__(logits.shape[0], logits.shape[1], hw, logits.device)
        self.logits = logits.detach().float()
        self.align_corners = align_corners

    def rows(self, first: int, last: int) -> Tensor:
        return resize_rows(self.logits, self.hw, first, last, align_corners=self.align_corners)

    def argmax(self) -> Tensor:
        return upsampled_labels(self.logits, self.hw, align_corners=self.align_corners)


class Window(NamedTuple):
    """Logits `b k h w`, at feature size, of the window whose upper left pixel is (row, column)."""

    row: int
    column: int
    logits: Tensor


class WindowScores(ClassScores):
    """Mean of overlapping windows, each upsampled to window_hw. hw: size of the image they were cropped from."""

    def __init__(self, windows: Sequence[Window], window_hw: HW, hw: HW, *, align_corners: bool) -> None:
        first = windows[0].logits
        super().__init__(first.shape[0], first.shape[1], hw, first.device)
        self.windows, self.window_hw, self.align_corners = windows, window_hw, align_corners
        corners = [(window.row, window.column) for window in windows]
        self.coverage = count_windows(corners, window_hw, hw).to(self.device)  # H W

    def rows(self, first: int, last: int) -> Tensor:
        total = torch.zeros(self.batch, self.num_classes, last - first, self.hw[1], device=self.device)
        for row, column, logits in self.windows:
            start, end = max(first, row), min(last, row + self.window_hw[0])
            if start >= end:
                continue
            upsampled = resize_rows(logits, self.window_hw, start - row, end - row, align_corners=self.align_corners)
            total[:, :, start - first : end - first, column : column + self.window_hw[1]] += upsampled
        return total.div_(self.coverage[first:last])


class ResizedScores(ClassScores):
    """Scores at the size of the network's input, resized to hw, the size of the label."""

    def __init__(self, scores: ClassScores, hw: HW, *, align_corners: bool) -> None:
        super().__init__(scores.batch, scores.num_classes, hw, scores.device)
        self.scores, self.align_corners = scores, align_corners
        self.taps = taps(scores.hw[0], hw[0], align_corners=align_corners)

    def rows(self, first: int, last: int) -> Tensor:
        above, below, share = (tap[first:last].to(self.device) for tap in self.taps)
        top = int(above[0])
        source = self.scores.rows(top, int(below[-1]) + 1)
        mixed = torch.lerp(
            source.index_select(2, above - top), source.index_select(2, below - top), share.float()[:, None]
        )
        return resize(mixed, (last - first, self.hw[1]), align_corners=self.align_corners)


class MeanProbabilities(ClassScores):
    """Mean of the views' class probabilities. views: the scores, and whether their image was flipped."""

    are_probabilities = True

    def __init__(self, views: Sequence[tuple[ClassScores, bool]]) -> None:
        first = views[0][0]
        super().__init__(first.batch, first.num_classes, first.hw, first.device)
        self.views = views

    def rows(self, first: int, last: int) -> Tensor:
        total = torch.zeros(self.batch, self.num_classes, last - first, self.hw[1], device=self.device)
        for scores, was_flipped in self.views:
            probabilities = scores.rows(first, last).softmax(dim=1)  # over k
            total += probabilities.flip(3) if was_flipped else probabilities
        return total.div_(len(self.views))


def whole_inference(predict: Predict, image: Tensor, out_hw: HW, *, align_corners: bool) -> ClassScores:
    """Predicts the whole image in one forward pass; its logits are upsampled once, from feature size to out_hw.

    image: f32 `b 3 H W`, already normalised; its size need not be a multiple of the output stride.

    Raises MachineError when the image does not fit into memory.
    """
    try:
        return LogitScores(predict(image), out_hw, align_corners=align_corners)
    except RuntimeError as err:
        if not _is_out_of_memory(err):
            raise
        hw = tuple(image.shape[-2:])
        raise MachineError(f"image {hw}: does not fit into memory at once; use eval.mode=slide") from err


def slide_inference(
    predict: Predict,
    image: Tensor,
    window_hw: HW,
    stride_hw: HW,
    out_hw: HW,
    *,
    align_corners: bool,
    batch_size: int = 1,
) -> ClassScores:
    """Computes the mean class scores over overlapping windows.

    image: f32 `b 3 H W`, already normalised. window_hw, stride_hw: pixels. batch_size: windows predicted at once.
    Returns scores at out_hw; every pixel is covered at least once. The last window in a row or column is pulled back
    inside the image, not padded; a window larger than the image shrinks to it. If memory runs out, fewer windows are
    predicted at once; then windows and strides are halved, with a warning, because that changes the scores.

    Raises ValueError when the stride exceeds the window (pixels between would go unseen).
    """
    if min(*window_hw, *stride_hw) < 1 or batch_size < 1:
        raise ValueError(f"window {window_hw}, stride {stride_hw}, batch_size {batch_size}; expected at least 1 each")
    if stride_hw[0] > window_hw[0] or stride_hw[1] > window_hw[1]:
        raise ValueError(f"stride_hw {stride_hw} exceeds window_hw {window_hw}: pixels between would go unseen")
    hw = (image.shape[2], image.shape[3])
    while True:
        fitted = (min(window_hw[0], hw[0]), min(window_hw[1], hw[1]))
        try:
            scores = _windows(predict, image, fitted, stride_hw, align_corners=align_corners, batch_size=batch_size)
            break
        except RuntimeError as err:
            if not _is_out_of_memory(err):
                raise
            if batch_size == 1 and min(fitted) < MIN_WINDOW_PX:
                raise MachineError(f"a window of {fitted} does not fit into memory; use a larger machine") from err
        if batch_size > 1:
            batch_size //= 2
            continue
        window_hw = (fitted[0] // 2, fitted[1] // 2)
        stride_hw = (max(1, min(stride_hw[0], fitted[0]) // 2), max(1, min(stride_hw[1], fitted[1]) // 2))
        warnings.warn(f"a window of {fitted} does not fit into memory: scored with {window_hw}", stacklevel=2)
    return scores if out_hw == hw else ResizedScores(scores, out_hw, align_corners=align_corners)


def _windows(
    predict: Predict, image: Tensor, window_hw: HW, stride_hw: HW, *, align_corners: bool, batch_size: int
) -> ClassScores:
    """Keeps the windows' logits, or sums them at image size if that needs less memory."""
    hw = (image.shape[2], image.shape[3])
    columns = window_starts(hw[1], window_hw[1], stride_hw[1])
    corners = [(row, column) for row in window_starts(hw[0], window_hw[0], stride_hw[0]) for column in columns]
    windows: list[Window] = []
    total: Tensor | None = None
    for first in range(0, len(corners), batch_size):
        batch = corners[first : first + batch_size]
        crops = [image[:, :, row : row + window_hw[0], column : column + window_hw[1]] for row, column in batch]
        logits = predict(torch.cat(crops)).detach().float()
        chunks = torch.split(logits, image.shape[0])  # one per window, b k h w
        new = [Window(row, column, chunk) for (row, column), chunk in zip(batch, chunks, strict=True)]
        if total is None and len(corners) * logits.shape[2] * logits.shape[3] > hw[0] * hw[1]:
            total = logits.new_zeros(image.shape[0], logits.shape[1], *hw)
        if total is None:
            windows += new
            continue
        for row, column, chunk in new:
            upsampled = resize(chunk, window_hw, align_corners=align_corners)
            total[:, :, row : row + window_hw[0], column : column + window_hw[1]] += upsampled
    if total is None:
        return WindowScores(windows, window_hw, hw, align_corners=align_corners)
    coverage = count_windows(corners, window_hw, hw).to(total)
    return LogitScores(total.div_(coverage), hw, align_corners=align_corners)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Returns the first pixel of each window along an axis: one every stride, the last pulled back inside the image."""
    if window >= length:
        return [0]
    return [*range(0, length - window, stride), length - window]


def count_windows(corners: Sequence[tuple[int, int]], window_hw: HW, hw: HW) -> Tensor:
    """Counts the windows that cover each pixel, f32 `H W` on the CPU. corners: each window's first row and column."""
    coverage = torch.zeros(hw)
    for row, column in corners:
        coverage[row : row + window_hw[0], column : column + window_hw[1]] += 1
    return coverage


def infer(
    predict: Predict,
    image: Tensor,
    out_hw: HW,
    cfg: EvalConfig,
    *,
    input_hws: Sequence[HW] = (),
    align_corners: bool = False,
) -> ClassScores:
    """Returns the class scores of an image at out_hw, the label's own size.

    image: f32 `b 3 H W`, already normalised, on the network's device. cfg: windows and flip. input_hws: the sizes at
    which the network sees the image, one per view (`input_hws` in presets.py); none: its own.
    With one view the scores are its logits; with several, the mean of their softmax.
    """
    views: list[tuple[ClassScores, bool]] = []
    with torch.no_grad():
        for input_hw in input_hws or [(image.shape[2], image.shape[3])]:
            scaled = resize(image, input_hw, align_corners=False)
            for was_flipped in (False, True) if cfg.flip else (False,):
                view = scaled.flip(3) if was_flipped else scaled
                if cfg.mode == "whole" or cfg.window_hw is None or cfg.stride_hw is None:
                    scores = whole_inference(predict, view, out_hw, align_corners=align_corners)
                else:
                    scores = slide_inference(
                        predict,
                        view,
                        cfg.window_hw,
                        cfg.stride_hw,
                        out_hw,
                        align_corners=align_corners,
                        batch_size=cfg.batch_size,
                    )
                views.append((scores, was_flipped))
    return views[0][0] if len(views) == 1 else MeanProbabilities(views)


def scaled_hw(hw: HW, scale: float) -> HW:
    """Returns hw times scale, rounded half up, at least 1."""
    if not scale > 0:
        raise ValueError(f"scale: {scale}; expected more than 0")
    return max(1, int(hw[0] * scale + 0.5)), max(1, int(hw[1] * scale + 0.5))


def _is_out_of_memory(err: RuntimeError) -> bool:
    return isinstance(err, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(err)
