"""Images of a split for a page, small enough to be part of it: those on which the networks differ most.

Masks are stored as zlib-packed class indices and not as images, because a script that was opened from disk may not read
the pixels of an image, and the legend, which hides classes, has to.
"""

import base64
import itertools
import zlib
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segnl.core import IGNORE
from segnl.core.arrays import Floats, Pixels
from segnl.core.png import picture_hw
from segnl.core.progress import Progress
from segnl.data.base import SegmentationData
from segnl.data.reading import rgb_view
from segnl.evaluation.evaluation import Evaluation

MAX_WIDTH, THUMB_WIDTH = 768, 112  # pixels


def disagreements(networks: Mapping[str, Evaluation], data: SegmentationData) -> Floats:
    """Returns the fraction of each image's labelled pixels on which the networks disagree, f64 `images`.

    networks: evaluations by name. For a single network: the fraction that is wrong.
    """
    if len(networks) == 1:
        return np.nan_to_num(next(iter(networks.values())).error_rate())
    fractions = np.zeros(len(data))
    with Progress("compare masks", len(data), unit="image") as progress:
        for i in range(len(data)):
            first, *others = (network.mask(i, data.table) for network in networks.values())
            differs = np.any([first != other for other in others], axis=0)
            labelled = data.read(i).label != IGNORE
            fractions[i] = (differs & labelled).sum() / max(1, labelled.sum())
            progress.advance()
    return fractions


def gallery(networks: Mapping[str, Evaluation], data: SegmentationData, *, num_images: int) -> dict[str, Any]:
    """Returns the data of the page's script as plain values for JSON; images by falling disagreement."""
    table = data.table
    differ = disagreements(networks, data)
    wrong = np.stack([network.error_rate() for network in networks.values()])  # heads images
    chosen = most_telling(differ, wrong, num_images)
    images = [
        _image(networks, data, i) | {"differ": _fraction(differ[i]), "wrong": [_fraction(own[i]) for own in wrong]}
        for i in sorted(chosen, key=lambda i: (-differ[i], i))
    ]
    return {
        "classes": [{"name": name, "rgb": rgb} for name, rgb in zip(table.names, table.palette.tolist(), strict=True)],
        "heads": list(networks),
        "pairs": list(data.ambiguous_pairs),
        "images": images,
        "available": len(data),
    }


def most_telling(differ: Floats, wrong: Floats, count: int) -> list[int]:
    """Returns the first images of each of the page's orders, taken from the orders in turn until there are `count`.

    The orders are: disagreement, mean error, and the gain of each network over each other one.
    differ: fraction of pixels on which the networks disagree, f64 `images`. wrong: fraction of errors, `heads images`.
    """
    errors = np.nan_to_num(wrong)
    orders = [differ, errors.mean(axis=0)]
    orders += [errors[a] - errors[b] for a, b in itertools.permutations(range(len(errors)), 2)]
    in_turn = np.stack([np.argsort(-order, kind="stable") for order in orders], axis=1)
    return list(dict.fromkeys(in_turn.ravel().tolist()))[:count]


def _image(networks: Mapping[str, Evaluation], data: SegmentationData, i: int) -> dict[str, Any]:
    sample = data.read(i)
    shape: tuple[int, int] = sample.label.shape
    hw = min(shape, picture_hw(shape, MAX_WIDTH))
    ambiguous = data.ambiguous_mask(i) if data.ambiguous_pairs else None
    return {
        "id": sample.id,
        "hw": list(hw),
        "photo": _jpeg(rgb_view(sample.image), hw),
        "thumb": _jpeg(rgb_view(sample.image), picture_hw(shape, THUMB_WIDTH)),
        "label": pack(_shrunk(sample.label, hw)),
        "masks": [pack(_shrunk(network.mask(i, data.table), hw)) for network in networks.values()],
        "ambiguous": None if ambiguous is None else pack(_shrunk(ambiguous, hw)),
    }


def pack(array: npt.NDArray[Any]) -> str:
    """Returns an array's bytes as base64 of a zlib stream."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode("ascii")


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
