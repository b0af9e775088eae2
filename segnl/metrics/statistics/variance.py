"""How uncertain a difference of two heads' scores is: the variance of seeds, that of images, and of what both contain.

Data-set IoU is a ratio of sums, so each image is given the part that it contributes to first order (its influence); the
mean of these parts is the score exactly. docs/statistics.md explains the method, benchmarks/calibrate.py measures it.

Legend: s runs of one head with different seeds, n images, k classes, m measures (the mIoU, or the classes). Scores and
differences are fractions, not points.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import fdtrc, stdtr, stdtrit

from segnl.core.arrays import Floats, Mask
from segnl.metrics.confusion import ratio

LEVEL = 0.95
BORROWED_DF = 0.5
"""Degrees of freedom that the other heads' spread over seeds lends to a head's own."""
AGREEMENT = 0.01
"""Runs of one seed are taken to score alike where chance would make them do so in less than this share of studies."""


def class_contributions(right: npt.ArrayLike, union: npt.ArrayLike) -> Floats:
    """What each image adds to each class's IoU: counts `... n k` -> f64 `... n k`, whose mean over n is the IoU.

    With R and U the sums over the images it is R/U + n (right - R/U union) / U: the ratio's first-order expansion.
    NaN for a class in neither truth nor prediction of any image.
    """
    right, union = np.asarray(right, np.float64), np.asarray(union, np.float64)
    total = union.sum(axis=-2, keepdims=True)
    iou = ratio(right.sum(axis=-2, keepdims=True), total)
    return np.asarray(iou + (right - iou * union) * ratio(right.shape[-2], total))


def contributions(right: npt.ArrayLike, union: npt.ArrayLike) -> Floats:
    """What each image adds to the mIoU: counts `... n k` -> f64 `... n`, whose mean over n is the mIoU.

    As `Confusion.miou` does it leaves out classes in neither truth nor prediction; NaN when there are no others.
    """
    parts = class_contributions(right, union)
    num_defined = np.isfinite(parts[..., :1, :]).sum(axis=-1)  # a class is undefined in all images or in none
    return np.asarray(np.nansum(parts, axis=-1) * ratio(1, num_defined))


@dataclass(frozen=True)
class HeadSpread:
    """One head's contributions, summed up. per_image: mean over runs, `n m`.  seed_var: between runs' scores, `m`.

    residual: variance of what a seed does to an image beyond what it does to all, `m`. Both are NaN for one run.
    """

    runs: int
    per_image: Floats
    seed_var: Floats
    residual: Floats


def spread_of(parts: Floats) -> HeadSpread:
    """Of one head's contributions `s n m`."""
    s, n, m = parts.shape
    per_image, per_run = parts.mean(axis=0), parts.mean(axis=1)
    if s < 2:
        return HeadSpread(s, per_image, np.full(m, np.nan), np.full(m, np.nan))
    left = parts - per_image - per_run[:, None] + per_image.mean(axis=0)
    residual = (left**2).sum(axis=(0, 1)) / ((s - 1) * max(1, n - 1))
    return HeadSpread(s, per_image, per_run.var(axis=0, ddof=1), residual)


@dataclass(frozen=True)
class Difference:
    """Differences `m` and their variance in two parts, each with its degrees of freedom."""

    value: Floats
    seeds: Floats
    seeds_df: Floats
    images: Floats
    images_df: Floats

    @property
    def variance(self) -> Floats:
        return self.seeds + self.images

    @property
    def df(self) -> Floats:
        """Satterthwaite's: of a t distribution that matches the sum's first two moments."""
        return satterthwaite([self.seeds, self.images], [self.seeds_df, self.images_df])

    def half_width(self, level: float = LEVEL) -> Floats:
        """Of the two-sided interval."""
        return np.asarray(stdtrit(self.df, 0.5 + level / 2) * np.sqrt(self.variance))

    def p(self) -> Floats:
        """Two-sided, of the hypothesis that the expected difference is 0."""
        t = ratio(np.abs(self.value), np.sqrt(self.variance))
        return np.asarray(2 * stdtr(self.df, -t))


def satterthwaite(variances: Sequence[Floats], df: Sequence[Floats]) -> Floats:
    """Degrees of freedom of a sum of independent variance estimates, at most 1e6; NaN when all are 0."""
    total = np.sum(variances, axis=0)
    lost = np.sum([variance**2 / each for variance, each in zip(variances, df, strict=True)], axis=0)
    return np.asarray(np.minimum(ratio(total**2, lost), 1e6))


def image_part(by_image: Floats) -> tuple[Floats, Floats]:
    """Variance `m` of the difference through the choice of images, the runs being as they are, and its df.

    by_image: the difference in every image, `n m`; an image that is hard for both heads adds nothing. A class that few
    images hold makes a few large contributions; their excess kurtosis takes degrees of freedom away.
    """
    n = len(by_image)
    centred = by_image - by_image.mean(axis=0)
    square = (centred**2).mean(axis=0)
    excess = np.nan_to_num(np.maximum(0, ratio((centred**4).mean(axis=0), square**2) - 3))
    return square / (n - 1), 2 / (2 / (n - 1) + excess / n)


def seed_part(spreads: Sequence[HeadSpread], a: int, b: int) -> tuple[Floats, Floats]:
    """Variance `m` of the difference of heads number a and b through their seeds, and its df; NaN if one has one run.

    Both heads' own variances; where the other heads of the study varied more, BORROWED_DF degrees of freedom of
    theirs raise it, and never lower it. Pooling all heads outright would be narrower and wrong when heads differ.
    """
    own, mixed, df = [], [], []
    has_others = sum(each.runs > 1 for each in spreads) > 2
    for i in (a, b):
        spread, free = spreads[i], spreads[i].runs - 1
        others = [each for j, each in enumerate(spreads) if j != i and each.runs > 1]
        weight = [each.runs - 1 for each in others]  # never empty: the pair's other head is one of them
        prior = np.average([each.seed_var for each in others], axis=0, weights=weight)
        own.append(spread.seed_var / spread.runs)
        mixed.append((free * spread.seed_var + BORROWED_DF * prior) / (free + BORROWED_DF) / spread.runs)
        df.append(np.full(prior.shape, free + BORROWED_DF * has_others))
    variance = np.maximum(own[0] + own[1], mixed[0] + mixed[1])
    residual = sum(spreads[i].residual / spreads[i].runs for i in (a, b)) / len(spreads[a].per_image)
    # A seed's own effect on each image is in the spread over seeds and in that over images: at least this much of it.
    return np.asarray(np.maximum(variance, residual)), satterthwaite(mixed, df)


def difference_of(spreads: Sequence[HeadSpread], a: int, b: int, *, with_seeds: bool = True) -> Difference:
    """Heads number a and b; spreads: of all heads of the study, on the same images.

    The variance is that of seeds, plus that of images less what both contain: what a seed does to single images.
    Without seeds it is the images' alone.
    """
    one, other = spreads[a], spreads[b]
    value = one.per_image.mean(axis=0) - other.per_image.mean(axis=0)
    images, images_df = image_part(one.per_image - other.per_image)
    if not with_seeds:
        return Difference(value, np.zeros_like(images), np.ones_like(images), images, images_df)
    seeds, seeds_df = seed_part(spreads, a, b)
    both = (one.residual / one.runs + other.residual / other.runs) / len(one.per_image)
    return Difference(value, seeds, seeds_df, np.maximum(0, images - both), images_df)


def seeds_agree(parts: Sequence[Floats]) -> Mask:
    """Whether runs of one seed score alike whatever the head, `m`; parts: of each head `s n m`, its runs in one order.

    The F test of seeds in a layout of heads by seeds without repetition: the seeds' mean square over that of the rest.
    """
    scores = np.stack([each.mean(axis=1) for each in parts])  # heads s m
    heads, s, m = scores.shape
    if heads < 2 or s < 2:
        return np.zeros(m, bool)
    by_seed = scores.mean(axis=0)
    rest = scores - by_seed - scores.mean(axis=1, keepdims=True) + by_seed.mean(axis=0)
    df = s - 1, (heads - 1) * (s - 1)
    f = ratio(heads * by_seed.var(axis=0, ddof=1), (rest**2).sum(axis=(0, 1)) / df[1])
    return np.asarray(fdtrc(*df, f) < AGREEMENT)


def paired_difference(parts: Sequence[Floats], a: int, b: int) -> Difference:
    """Heads number a and b, seed by seed; parts: of all heads whose runs have the same seeds, `s n m` in one order.

    As in `difference_of`, with one spread instead of two, that of the difference: what a seed does to both drops out.
    The other pairs lend BORROWED_DF where they vary more.
    """
    own = spread_of(parts[a] - parts[b])
    scores = [each.mean(axis=1) for each in parts]  # s m
    others = [
        (scores[i] - scores[j]).var(axis=0, ddof=1)
        for i, j in itertools.combinations(range(len(parts)), 2)
        if {i, j} != {a, b}
    ]
    free, n = own.runs - 1, len(own.per_image)
    df = free + BORROWED_DF * bool(others)
    prior = np.mean(others, axis=0) if others else own.seed_var
    variance = np.maximum(own.seed_var, (free * own.seed_var + BORROWED_DF * prior) / (free + BORROWED_DF)) / own.runs
    both = own.residual / (own.runs * n)
    images, images_df = image_part(own.per_image)
    seeds = np.maximum(variance, both)
    return Difference(
        own.per_image.mean(axis=0), seeds, np.full_like(seeds, df), np.maximum(0, images - both), images_df
    )
