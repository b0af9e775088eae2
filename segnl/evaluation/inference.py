"""From a network to the class scores of a whole image: whole, in windows, at several scales, flipped.

A `Predict` gives logits at feature size; a `Scores` computes the scores of an image from them, band of rows by band, so
that nothing holds `b k H W`. Modes compose: `infer` puts them together.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segnl.core.errors import MachineError
from segnl.ops.resize import resize, resize_rows, taps
from segnl.ops.upsampled_labels import band_rows, upsampled_labels, winners

Size = tuple[int, int]
Predict = Callable[[Tensor], Tensor]
"""Normalised image f32 `b 3 H W` -> logits `b k h w`, of any floating type and any h w."""

MIN_WINDOW = 64  # pixels; where that does not fit, nothing will


class Scores:
    """Class scores f32 `b k H W` of which only the rows asked for are ever computed."""

    def __init__(self, batch: int, num_classes: int, hw: Size, device: torch.device) -> None:
        self.batch, self.num_classes, self.hw, self.device = batch, num_classes, hw, device

    def rows(self, first: int, last: int) -> Tensor:
        """Rows [first, last), f32 `b k last-first W`."""
        raise NotImplementedError

    def bands(self, rows: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """`(first row, f32 b k rows W)` from the top; by default as many rows as fit the cache; fewer in the last."""
        if rows is None:
            rows = band_rows(self.batch, self.num_classes, self.hw, self.device)
        if rows < 1:
            raise ValueError(f"rows: {rows}; expected at least 1")
        for first in range(0, self.hw[0], rows):
            yield first, self.rows(first, min(first + rows, self.hw[0]))

    def argmax(self) -> Tensor:
        """The class with the greatest score, u8 `b H W`; of equal ones the lowest."""
        out = torch.empty(self.batch, *self.hw, dtype=torch.uint8, device=self.device)
        for first, band in self.bands():
            out[:, first : first + band.shape[2]] = winners(band)
        return out


class LogitScores(Scores):
    """Logits `b k h w`, upsampled to hw."""

    def __init__(self, logits: Tensor, hw: Size, *, align_corners: bool) -> None:
        super().__init__(logits.shape[0], logits.shape[1], hw, logits.device)
        self.logits = logits.detach().float()
        self.align_corners = align_corners

    def rows(self, first: int, last: int) -> Tensor:
        return resize_rows(self.logits, self.hw, first, last, align_corners=self.align_corners)

    def argmax(self) -> Tensor:
        return upsampled_labels(self.logits, self.hw, align_corners=self.align_corners)


class Window(NamedTuple):
    """What a network said of the pixels from (row, column) on: logits `b k h w`, of its feature size."""

    row: int
    column: int
    logits: Tensor


class WindowScores(Scores):
    """The mean of overlapping windows, each upsampled to window_hw; hw is the size of the image they were cut from."""

    def __init__(self, windows: Sequence[Window], window_hw: Size, hw: Size, *, align_corners: bool) -> None:
        first = windows[0].logits
        super().__init__(first.shape[0], first.shape[1], hw, first.device)
        self.windows, self.window_hw, self.align_corners = windows, window_hw, align_corners
        places = [(window.row, window.column) for window in windows]
        self.times = times_seen(places, window_hw, hw).to(self.device)  # H W

    def rows(self, first: int, last: int) -> Tensor:
        total = torch.zeros(self.batch, self.num_classes, last - first, self.hw[1], device=self.device)
        for row, column, logits in self.windows:
            start, end = max(first, row), min(last, row + self.window_hw[0])
            if start >= end:
                continue
            part = resize_rows(logits, self.window_hw, start - row, end - row, align_corners=self.align_corners)
            total[:, :, start - first : end - first, column : column + self.window_hw[1]] += part
        return total.div_(self.times[first:last])


class ResizedScores(Scores):
    """Another's scores, resized to hw: from the size of the network's input to that of the label."""

    def __init__(self, scores: Scores, hw: Size, *, align_corners: bool) -> None:
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


class MeanProbabilities(Scores):
    """The mean over views of the softmax of their scores; each view comes with whether its image was flipped."""

    def __init__(self, views: Sequence[tuple[Scores, bool]]) -> None:
        first = views[0][0]
        super().__init__(first.batch, first.num_classes, first.hw, first.device)
        self.views = views

    def rows(self, first: int, last: int) -> Tensor:
        total = torch.zeros(self.batch, self.num_classes, last - first, self.hw[1], device=self.device)
        for scores, was_flipped in self.views:
            probabilities = scores.rows(first, last).softmax(dim=1)  # over k
            total += probabilities.flip(3) if was_flipped else probabilities
        return total.div_(len(self.views))


def whole(predict: Predict, image: Tensor, out_hw: Size, *, align_corners: bool) -> Scores:
    """The image in one piece; its logits are upsampled once, from feature size to out_hw.

    image: f32 `b 3 H W`, already normalised; its size need not be a multiple of the output stride.

    Raises MachineError when it does not fit into memory.
    """
    try:
        return LogitScores(predict(image), out_hw, align_corners=align_corners)
    except RuntimeError as err:
        if not _is_out_of_memory(err):
            raise
        hw = tuple(image.shape[-2:])
        raise MachineError(f"image {hw}: does not fit into memory in one piece; use eval.mode=slide") from err


def sliding(
    predict: Predict,
    image: Tensor,
    window_hw: Size,
    stride_hw: Size,
    out_hw: Size,
    *,
    align_corners: bool,
    batch_size: int = 1,
) -> Scores:
    """Mean class scores over overlapping windows.

    image: f32 `b 3 H W`, already normalised. window_hw, stride_hw: pixels. batch_size: windows predicted at once.
    Returns scores at out_hw; every pixel is covered at least once. The last window in a row or column is pulled back
    inside the image, not padded; a window larger than the image shrinks to it. Where memory does not suffice, fewer
    windows go at once, then windows and strides are halved, with a warning since that changes the scores.

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
            if batch_size == 1 and min(fitted) < MIN_WINDOW:
                raise MachineError(f"a window of {fitted} does not fit into memory; use a larger machine") from err
        if batch_size > 1:
            batch_size //= 2
            continue
        window_hw = (fitted[0] // 2, fitted[1] // 2)
        stride_hw = (max(1, min(stride_hw[0], fitted[0]) // 2), max(1, min(stride_hw[1], fitted[1]) // 2))
        warnings.warn(f"a window of {fitted} does not fit into memory: scored with {window_hw}", stacklevel=2)
    return scores if out_hw == hw else ResizedScores(scores, out_hw, align_corners=align_corners)


def _windows(
    predict: Predict, image: Tensor, window_hw: Size, stride_hw: Size, *, align_corners: bool, batch_size: int
) -> Scores:
    """The windows' logits as they are, or their sum in place where they are larger than that (logits at image size)."""
    hw = (image.shape[2], image.shape[3])
    columns = starts(hw[1], window_hw[1], stride_hw[1])
    places = [(row, column) for row in starts(hw[0], window_hw[0], stride_hw[0]) for column in columns]
    windows: list[Window] = []
    total: Tensor | None = None
    for first in range(0, len(places), batch_size):
        some = places[first : first + batch_size]
        crops = [image[:, :, row : row + window_hw[0], column : column + window_hw[1]] for row, column in some]
        logits = predict(torch.cat(crops)).detach().float()
        found = [Window(*at, part) for at, part in zip(some, torch.split(logits, image.shape[0]), strict=True)]
        if total is None and len(places) * logits.shape[2] * logits.shape[3] > hw[0] * hw[1]:
            total = logits.new_zeros(image.shape[0], logits.shape[1], *hw)
        if total is None:
            windows += found
            continue
        for row, column, part in found:
            upsampled = resize(part, window_hw, align_corners=align_corners)
            total[:, :, row : row + window_hw[0], column : column + window_hw[1]] += upsampled
    if total is None:
        return WindowScores(windows, window_hw, hw, align_corners=align_corners)
    times = times_seen(places, window_hw, hw).to(total)
    return LogitScores(total.div_(times), hw, align_corners=align_corners)


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along an axis: every stride, the last one pulled back inside; [0] when one covers it all."""
    if window >= length:
        return [0]
    return [*range(0, length - window, stride), length - window]


def times_seen(places: Sequence[tuple[int, int]], window_hw: Size, hw: Size) -> Tensor:
    """How many windows, beginning at those rows and columns, cover each pixel: f32 `H W` on the CPU."""
    times = torch.zeros(hw)
    for row, column in places:
        times[row : row + window_hw[0], column : column + window_hw[1]] += 1
    return times


def infer(
    predict: Predict,
    image: Tensor,
    out_hw: Size,
    *,
    mode: str = "whole",
    window_hw: Size | None = None,
    stride_hw: Size | None = None,
    scales: Sequence[float] = (1.0,),
    input_hws: Sequence[Size] | None = None,
    flip: bool = False,
    batch_size: int = 1,
    align_corners: bool = False,
) -> Scores:
    """The scores of an image by a whole protocol, at out_hw (the label's own size).

    image: f32 `b 3 H W`, already normalised, on the network's device. mode: whole or slide (window_hw, stride_hw).
    scales: of the image's size; input_hws: the sizes themselves, instead. flip: also the flipped image.
    One view gives its logits; several give the mean of their softmax.

    Raises ValueError for a mode that is neither, no scale, or slide without window and stride.
    """
    hw = (image.shape[2], image.shape[3])
    sizes = [scaled_hw(hw, scale) for scale in scales] if input_hws is None else list(input_hws)
    if mode not in ("whole", "slide") or not sizes:
        raise ValueError(f"mode {mode!r}, {len(sizes)} scales; expected 'whole' or 'slide' and at least one scale")
    if mode == "slide" and (window_hw is None or stride_hw is None):
        raise ValueError("mode slide needs window_hw and stride_hw")
    views: list[tuple[Scores, bool]] = []
    with torch.no_grad():
        for size in sizes:
            scaled = resize(image, size, align_corners=False)
            for was_flipped in (False, True) if flip else (False,):
                view = scaled.flip(3) if was_flipped else scaled
                if mode == "slide" and window_hw is not None and stride_hw is not None:
                    scores = sliding(
                        predict, view, window_hw, stride_hw, out_hw, align_corners=align_corners, batch_size=batch_size
                    )
                else:
                    scores = whole(predict, view, out_hw, align_corners=align_corners)
                views.append((scores, was_flipped))
    return views[0][0] if len(views) == 1 else MeanProbabilities(views)


def scaled_hw(hw: Size, scale: float) -> Size:
    """hw times scale, rounded half up, at least 1."""
    if not scale > 0:
        raise ValueError(f"scale: {scale}; expected more than 0")
    return max(1, int(hw[0] * scale + 0.5)), max(1, int(hw[1] * scale + 0.5))


def _is_out_of_memory(err: RuntimeError) -> bool:
    return isinstance(err, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(err)
