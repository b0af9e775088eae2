"""Populations of studies that try to break the intervals: rare classes, heavy tails, video frames, few images.

The model of calibration_population.py is one family (normal effects on the logit scale). Here are three others, so that
no interval is tuned to one of them. Each gives the fraction of a class's pixels that a run finds in an image:

- `logit`: the logit of the fraction has effects of seed and image, normal or of Student's t with 3 degrees of freedom.
- `beta`: a head's fraction in an image is Beta distributed; a run's pixels are binomial.
- `tracks`: an image holds one to three objects of a class, each of which a head finds or misses as a whole. In a video
  an object is found or missed in all frames of its cluster. A run differs from its head on one object in ten.

Missed pixels go to the classes of the same image, so false positives stay where the class's neighbours are.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segnl.core.arrays import Floats

Effects = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """One population. Classes are common unless `rare` says in how many images they are; heads differ by `shift`.

    rare: for each rare class the number of images, drawn at random; a fraction is rounded up or down at random.
    common: number of classes that are in nine of ten images.  size_sd: of the logarithm of an image's pixels.
    shift: of each head on the logit scale.  seed_sd: of a seed's effect, for each head or for all; shared: share of its
    variance that all heads have in common.  image_sd: of a head's effect in an image; rest_sd: of a run's.
    cluster: frames of a cluster, contiguous; alike: share of the image's effect that a cluster's frames have in common;
    drift: correlation of neighbouring frames' effects, across the ends of clusters too, in place of `alike`.
    stray: probability that a run predicts a class without ground truth, in a few pixels of one image.
    """

    family: str = "logit"
    images: int = 100
    common: int = 7
    rare: tuple[float, ...] = ()
    size_sd: float = 0.5
    shift: tuple[float, ...] = (0, 0, 0.1, 0.3)
    seed_sd: float | tuple[float, ...] = 0.05
    shared: float = 0.0
    image_sd: float = 0.7
    rest_sd: float = 0.2
    tail_df: int = 0
    cluster: int = 1
    alike: float = 0.0
    drift: float = 0.0
    stray: float = 0.0

    @property
    def classes(self) -> int:
        return self.common + len(self.rare) + bool(self.stray)

    @property
    def groups(self) -> list[int]:
        """The cluster of each image."""
        return [i // self.cluster for i in range(self.images)]


@dataclass(frozen=True)
class Drawn:
    """Pixels of intersection and union, `studies heads seeds images classes`; labels without heads, seeds."""

    intersection: Floats
    union: Floats
    target: Floats


def draw(rng: np.random.Generator, population: Population, *, studies: int, seeds: int) -> Drawn:
    """Draws independent studies."""
    target = _targets(rng, population, studies)
    found = {"logit": _logit, "beta": _beta, "tracks": _tracks}[population.family](rng, population, target, seeds)
    pixels = target[:, None, None]
    intersection = np.floor(found * pixels)
    missed = (pixels - intersection).sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        neighbours = np.nan_to_num(pixels / pixels.sum(axis=-1, keepdims=True))
    union = pixels + np.floor(missed * neighbours)
    if population.stray:
        shape = union.shape[:3]
        where = rng.integers(0, population.images, shape)
        pixels_there = (rng.random(shape) < population.stray) * rng.integers(1, 50, shape)
        np.put_along_axis(union[..., -1], where[..., None], pixels_there[..., None], axis=-1)
    return Drawn(intersection, union, target)


def _targets(rng: np.random.Generator, population: Population, studies: int) -> Floats:
    """Draws labelled pixels `studies images classes`; a class's images come as whole clusters."""
    n, k, step = population.images, population.classes, population.cluster
    present = np.zeros((studies, n, k), bool)
    present[..., : population.common] = rng.random((studies, n, population.common)) < 0.9
    present[..., 0] = True
    for c, expected in enumerate(population.rare, population.common):
        wanted = np.floor(expected + rng.random(studies))
        rank = rng.random((studies, n // step)).argsort(axis=1).argsort(axis=1)
        present[..., c] = np.repeat(rank < np.ceil(wanted / step)[:, None], step, axis=1)
    if population.stray:
        present[..., -1] = False
    share = 20_000 * 0.7 ** np.arange(k)
    image = np.exp(population.size_sd * rng.standard_normal((studies, n, 1)))
    return np.asarray(np.floor(present * image * share * np.exp(0.4 * rng.standard_normal((studies, n, k)))))


def _levels(population: Population) -> Effects:
    """Returns the logit of the fraction found, `heads 1 1 classes`."""
    by_class = np.linspace(2.0, 0.0, population.classes)
    return np.asarray(np.array(population.shift)[:, None, None, None] + by_class)


def _seed_effects(rng: np.random.Generator, population: Population, studies: int, seeds: int) -> Effects:
    """Draws the effects of seeds, `studies heads seeds 1 classes`: half of the variance is common to the classes."""
    heads, k = len(population.shift), population.classes

    def effect(num_heads: int) -> Effects:
        shape = (studies, num_heads, seeds, 1)
        return np.asarray(0.5**0.5 * (rng.standard_normal((*shape, k)) + rng.standard_normal((*shape, 1))))

    sd = np.broadcast_to(np.asarray(population.seed_sd, np.float64), (heads,))[:, None, None, None]
    return np.asarray(sd * ((1 - population.shared) ** 0.5 * effect(heads) + population.shared**0.5 * effect(1)))


def _image_effects(rng: np.random.Generator, population: Population, studies: int) -> Effects:
    """Draws a head's effects in the images, `studies heads 1 images classes`, of variance 1, alike in a cluster."""
    shape = (studies, len(population.shift), 1, population.images, population.classes)
    if population.drift:
        effects = rng.standard_normal(shape)
        for i in range(1, population.images):
            own = (1 - population.drift**2) ** 0.5 * effects[..., i, :]
            effects[..., i, :] = population.drift * effects[..., i - 1, :] + own
        return effects
    noise = rng.standard_normal(shape)
    if population.tail_df:
        chi = rng.chisquare(population.tail_df, shape)
        noise *= np.sqrt((population.tail_df - 2) / chi)
    if population.cluster > 1:
        of_cluster = rng.standard_normal((*shape[:3], population.images // population.cluster, shape[-1]))
        common = np.repeat(of_cluster, population.cluster, axis=3)
        noise = population.alike**0.5 * common + (1 - population.alike) ** 0.5 * noise
    return noise


def _logit(rng: np.random.Generator, population: Population, target: Floats, seeds: int) -> Floats:
    studies = len(target)
    x = _levels(population) + population.image_sd * _image_effects(rng, population, studies)
    shape = (studies, len(population.shift), seeds, population.images, population.classes)
    x = x + _seed_effects(rng, population, studies, seeds) + population.rest_sd * rng.standard_normal(shape)
    return np.asarray(1 / (1 + np.exp(-x)))


def _beta(rng: np.random.Generator, population: Population, target: Floats, seeds: int) -> Floats:
    studies = len(target)
    level = 1 / (1 + np.exp(-_levels(population)))
    concentration = 1 / population.image_sd**2
    shape = (studies, len(population.shift), 1, population.images, population.classes)
    of_head = rng.beta(concentration * level, concentration * (1 - level), shape)
    of_run = np.clip(of_head + 0.2 * _seed_effects(rng, population, studies, seeds), 0, 1)
    superpixels = 50  # pixels of one region share their fate, so a run's share varies as that of 50 draws
    return np.asarray(rng.binomial(superpixels, np.broadcast_to(of_run, (*shape[:2], seeds, *shape[3:]))) / superpixels)


def _tracks(rng: np.random.Generator, population: Population, target: Floats, seeds: int) -> Floats:
    studies, most, step = len(target), 3, population.cluster
    level = 1 / (1 + np.exp(-_levels(population)))[..., None]  # heads 1 1 k 1
    shape = (studies, len(population.shift), seeds, population.images // step, population.classes, most)
    by_seed = 0.2 * _seed_effects(rng, population, studies, seeds)[..., None]
    common = rng.random((*shape[:2], 1, *shape[3:]))
    luck = np.where(rng.random(shape) < 0.1, rng.random(shape), common)
    is_found = luck < level + by_seed
    num_objects = rng.integers(1, most + 1, (studies, 1, 1, shape[3], population.classes, 1))
    weight = np.arange(most) < num_objects
    share = (is_found * weight).sum(axis=-1) / weight.sum(axis=-1)
    return np.asarray(np.repeat(0.05 + 0.9 * share, step, axis=3))
