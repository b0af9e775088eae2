"""What a page shows of a split: the images that tell networks apart, small enough to lie inside the page.

Masks travel as zlib-packed class indices and not as pictures: a script that was opened from disk may not read the
pixels of a picture, and a legend that hides classes has to.
"""

import base64
import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from segnl.core import IGNORE
from segnl.core.arrays import Floats, Pixels
from segnl.core.progress import Progress
from segnl.data.base import SegmentationData
from segnl.evaluation.predictions import Predictions
from segnl.labels.table import ClassTable

MAX_WIDTH, THUMB_WIDTH = 768, 112  # pixels


@dataclass(frozen=True)
class PageModel:
    """One network in a page: what it is called there, and what it predicts."""

    name: str
    predictions: Predictions


def disagreements(shown: Sequence[PageModel], data: SegmentationData) -> Floats:
    """The share of each image's labelled pixels on which the networks do not all say the same, f64 `images`.

    With one network there is nothing to disagree: the share that is wrong.
    """
    if len(shown) == 1:
        return np.nan_to_num(shown[0].predictions.wrong())
    out = np.zeros(len(data))
    with Progress("compare masks", len(data), unit="image") as progress:
        for i in range(len(data)):
            first, *others = (each.predictions.mask(i, data.table) for each in shown)
            differs = np.any([first != other for other in others], axis=0)
            labelled = data.read(i).label != IGNORE
            out[i] = (differs & labelled).sum() / max(1, labelled.sum())
            progress.advance()
    return out


def gallery(shown: Sequence[PageModel], data: SegmentationData, *, num_images: int) -> dict[str, Any]:
    """What the page's script reads, plain values for JSON; images in order of falling disagreement."""
    differ = disagreements(shown, data)
    wrong = np.stack([each.predictions.wrong() for each in shown])  # heads images
    chosen = most_telling(differ, wrong, num_images)
    images = [
        _image(shown, data, i) | {"differ": _fraction(differ[i]), "wrong": [_fraction(each[i]) for each in wrong]}
        for i in sorted(chosen, key=lambda i: (-differ[i], i))
    ]
    return {
        "classes": class_list(data.table),
        "heads": [each.name for each in shown],
        "pairs": list(data.ambiguous_pairs),
        "images": images,
        "available": len(data),
    }


def most_telling(differ: Floats, wrong: Floats, count: int) -> list[int]:
    """Images that stand first in one of the page's orders, taken from each order in turn until there are `count`.

    differ: share of pixels on which the networks disagree, f64 `images`.  wrong: share that is wrong, `heads images`.
    The orders: disagreement, errors of all, and the gain of each network over each other one.
    """
    errors = np.nan_to_num(wrong)
    orders = [differ, errors.mean(axis=0)]
    orders += [errors[a] - errors[b] for a, b in itertools.permutations(range(len(errors)), 2)]
    chosen: dict[int, None] = {}  # an ordered set
    for places in zip(*(np.argsort(-order, kind="stable").tolist() for order in orders), strict=True):
        for i in places:
            if len(chosen) < count:
                chosen[i] = None
    return list(chosen)


def class_list(table: ClassTable) -> list[dict[str, Any]]:
    """Name and RGB of every class, in train order."""
    return [{"name": name, "rgb": rgb} for name, rgb in zip(table.names, table.palette.tolist(), strict=True)]


def _image(shown: Sequence[PageModel], data: SegmentationData, i: int) -> dict[str, Any]:
    sample = data.read(i)
    height, width = sample.label.shape
    hw = (max(1, round(height * MAX_WIDTH / width)), MAX_WIDTH) if width > MAX_WIDTH else (height, width)
    thumb_hw = max(1, round(height * THUMB_WIDTH / width)), THUMB_WIDTH
    masks = [each.predictions.mask(i, data.table) for each in shown]
    ambiguous = data.ambiguous_mask(i) if data.ambiguous_pairs else None
    return {
        "stem": sample.id,
        "hw": list(hw),
        "photo": _jpeg(sample.image, hw),
        "thumb": _jpeg(sample.image, thumb_hw),
        "truth": pack(_shrunk(sample.label, hw)),
        "masks": [pack(_shrunk(mask, hw)) for mask in masks],
        "ambiguous": None if ambiguous is None else pack(_shrunk(ambiguous, hw)),
    }


def pack(ids: Pixels) -> str:
    """u8 `H W` as base64 of a zlib stream of its rows."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(ids).tobytes(), 9)).decode("ascii")


def _shrunk(ids: Pixels, hw: tuple[int, int]) -> Pixels:
    if ids.shape == hw:
        return ids
    return np.asarray(cv2.resize(ids, hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def _jpeg(image: Pixels, hw: tuple[int, int]) -> str:
    small = image if image.shape[:2] == hw else cv2.resize(image, hw[::-1], interpolation=cv2.INTER_AREA)
    packed = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 84])[1]
    return "data:image/jpeg;base64," + base64.b64encode(packed.tobytes()).decode("ascii")


def _fraction(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None
