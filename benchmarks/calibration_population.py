"""A population of segmentation studies whose sources of variation are known: per-image pixel counts, drawn at random.

Of class c in image i, run s of head h finds the fraction 1 / (1 + exp(-x)) of the labelled pixels, where x is the sum
of the class's level, the head's own, the seed's effect, the image's difficulty (the same for all heads), the head's
response to the image, and the residual of this run on this image. Missed pixels go to the other classes in fixed
proportions.
Every effect is normal; half of its variance is common to the classes, half is a class's own. Classes differ in how many
images hold them: the rarest is in 8 of 100.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segnl.core.arrays import Floats

Float32s = npt.NDArray[np.float32]

PRESENT = np.array([1.0, 1.0, 0.9, 0.8, 0.5, 0.3, 0.15, 0.08])
"""Fraction of the images that contain each class."""
PIXELS = np.array([40000, 30000, 12000, 6000, 3000, 2500, 1500, 1500], np.float32)
LEVEL = np.array([3.0, 2.5, 1.8, 1.2, 0.8, 0.5, 0.0, -0.3], np.float32)
"""Level of each class for the control head, in the units of x."""
DIFFICULTY = 0.8
"""Standard deviation of an image's difficulty for every head; it hardly affects a paired difference."""


@dataclass(frozen=True)
class Variation:
    """Standard deviations in the units of x. seeds: one for each head.  shift: a head's level above the control's.

    shared: of a seed's effect, the share of its variance that all heads have in common.
    """

    seeds: tuple[float, ...]
    response: float
    rest: float
    shift: tuple[float, ...]
    shared: float = 0.0


@dataclass(frozen=True)
class Studies:
    """Pixels in intersection and union, whole numbers in f32, `studies heads seeds images classes` each."""

    intersection: Float32s
    union: Float32s


def draw(rng: np.random.Generator, variation: Variation, *, studies: int, seeds: int, images: int) -> Studies:
    """Draws independent studies, each with new seeds and new images; all runs of one study see the same images."""
    heads, k = len(variation.seeds), len(PIXELS)
    target = _target(rng, studies, images)[:, None, None]
    by_head = np.array(variation.shift, np.float32)[:, None, None, None]
    by_seed = np.float32((1 - variation.shared) ** 0.5) * _effect(rng, (studies, heads, seeds, 1), k)
    if variation.shared:
        by_seed += np.float32(variation.shared**0.5) * _effect(rng, (studies, 1, seeds, 1), k)
    by_seed *= np.array(variation.seeds, np.float32)[:, None, None, None]
    by_image = np.float32(DIFFICULTY) * _effect(rng, (studies, 1, 1, images), k)
    response = np.float32(variation.response) * _effect(rng, (studies, heads, 1, images), k)
    x = _effect(rng, (studies, heads, seeds, images), k)
    x *= np.float32(variation.rest)
    x += LEVEL + by_head + by_image + response
    x += by_seed
    intersection = np.floor(target / (1 + np.exp(-x)))
    # One product of two matrices: a stack of small ones is many times slower.
    wrong = np.reshape((target - intersection).reshape(-1, k) @ _confusions(k), intersection.shape)
    return Studies(intersection, target + np.floor(wrong))


def _target(rng: np.random.Generator, studies: int, images: int) -> Float32s:
    shape = (studies, images, len(PIXELS))
    size = PIXELS * np.exp(np.float32(0.7) * rng.standard_normal(shape, dtype=np.float32))
    return np.floor((rng.random(shape, dtype=np.float32) < PRESENT) * size)


def _effect(rng: np.random.Generator, shape: tuple[int, ...], k: int) -> Float32s:
    """Draws normal effects of variance 1, `*shape k`; half of the variance is common to the classes."""
    own = rng.standard_normal((*shape, k), dtype=np.float32)
    own += rng.standard_normal((*shape, 1), dtype=np.float32)
    own *= np.float32(0.5**0.5)
    return own


def _confusions(k: int) -> Float32s:
    """Returns in row c where the missed pixels of class c go: mostly to its neighbours, never to c."""
    distance = np.abs(np.arange(k)[:, None] - np.arange(k)).astype(np.float32)
    weight = np.where(distance > 0, 1 / np.maximum(distance, 1) ** 2, 0)
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


def miou(studies: Studies) -> Floats:
    """Returns the data-set mIoU of every run, `studies heads seeds`; classes without pixels are left out."""
    intersection, union = (counts.sum(axis=-2, dtype=np.float64) for counts in (studies.intersection, studies.union))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nanmean(intersection / union, axis=-1))
