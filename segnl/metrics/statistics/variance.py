"""Variance of a difference between two heads, through their seeds and through the images, with degrees of freedom."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc, stdtr, stdtrit

from segnl.core.arrays import Floats, Mask
from segnl.metrics.confusion import ratio

ALPHA = 0.05
"""Probability of a false verdict, and of an interval that misses the true difference."""
BORROWED_DF = 0.5
"""Degrees of freedom that a head's variance over seeds borrows from the other heads of the study."""
AGREEMENT = 0.01
"""Level of the F test of `seeds_agree`."""
MIN_PAIRED_HEADS = 4
"""Fewest heads with which `seeds_agree` is tested."""


@dataclass(frozen=True)
class HeadSpread:
    """Means and variances of one head's contributions. Both variances are NaN for one run.

    per_image: mean over runs, `n m`.  seed_var: variance of the runs' scores, `m`.
    residual: variance of the interaction of seed and image, `m`.
    """

    runs: int
    per_image: Floats
    seed_var: Floats
    residual: Floats


def spread_of(contributions: Floats) -> HeadSpread:
    """Summarises one head's contributions `s n m`."""
    s, n, m = contributions.shape
    per_image, per_run = contributions.mean(axis=0), contributions.mean(axis=1)
    if s < 2:
        return HeadSpread(s, per_image, np.full(m, np.nan), np.full(m, np.nan))
    interaction = contributions - per_image - per_run[:, None] + per_image.mean(axis=0)
    residual = (interaction**2).sum(axis=(0, 1)) / ((s - 1) * max(1, n - 1))
    return HeadSpread(s, per_image, per_run.var(axis=0, ddof=1), residual)


@dataclass(frozen=True)
class Estimate:
    """Differences `m`, and the two components of their variance with their degrees of freedom.

    most_df: bound of the sum's degrees of freedom, for a class that few images hold.
    """

    value: Floats
    seeds: Floats
    seeds_df: Floats
    images: Floats
    images_df: Floats
    most_df: Floats | float = np.inf

    @property
    def variance(self) -> Floats:
        return self.seeds + self.images

    @property
    def df(self) -> Floats:
        """Satterthwaite's degrees of freedom of the sum."""
        df = satterthwaite([self.seeds, self.images], [self.seeds_df, self.images_df])
        return np.asarray(np.minimum(df, self.most_df))

    def half_width(self, alpha: float = ALPHA) -> Floats:
        """Returns half the width of the two-sided interval of level 1 - alpha."""
        return np.asarray(stdtrit(self.df, 1 - alpha / 2) * np.sqrt(self.variance))

    def p(self) -> Floats:
        """Returns the two-sided p value of the hypothesis that the expected difference is 0."""
        t = ratio(np.abs(self.value), np.sqrt(self.variance))
        return np.asarray(2 * stdtr(self.df, -t))


def satterthwaite(variances: Sequence[Floats], df: Sequence[Floats]) -> Floats:
    """Returns the degrees of freedom of a sum of independent variance estimates, at most 1e6; NaN when all are 0.

    (sum of variances)^2 / sum of (variance^2 / df): a t distribution with them matches the sum's first two moments
    (Satterthwaite 1946).
    """
    total = np.sum(variances, axis=0)
    spread = np.sum([variance**2 / own_df for variance, own_df in zip(variances, df, strict=True)], axis=0)
    return np.asarray(np.minimum(ratio(total**2, spread), 1e6))


def image_variance(by_image: Floats) -> tuple[Floats, Floats]:
    """Returns the variance `m` of a difference through the choice of images, for these runs, and its df.

    by_image: the difference in every image, `n m`; an image that is hard for both heads adds nothing. 0 for a single
    image or group. A class in few images makes a few large contributions; their excess kurtosis (its unbiased estimate,
    Joanes and Gill 1998) lowers the degrees of freedom, since it adds to the variance of a variance (Cramer 1946).
    """
    n = len(by_image)
    if n < 2:  # a single group: these images are the population
        return np.zeros(by_image.shape[1]), np.ones(by_image.shape[1])
    centred = by_image - by_image.mean(axis=0)
    square = (centred**2).mean(axis=0)
    excess = np.nan_to_num(ratio((centred**4).mean(axis=0), square**2) - 3)
    if n > 3:
        excess = (n - 1) / (n - 2) / (n - 3) * ((n + 1) * excess + 6)
    return square / (n - 1), 2 / (2 / (n - 1) + np.maximum(0, excess) / n)


def seed_variance(spreads: Sequence[HeadSpread], a: int, b: int) -> tuple[Floats, Floats]:
    """Returns the variance `m` of the difference of heads a and b through their seeds, and its df.

    The sum of both heads' own variances; NaN if one has one run. Where the other heads of the study vary more,
    BORROWED_DF degrees of freedom of theirs raise it; they never lower it. Pooling all heads would be narrower, and
    wrong when heads differ.
    """
    own, mixed, df = [], [], []
    has_others = sum(spread.runs > 1 for spread in spreads) > 2
    for i in (a, b):
        spread, own_df = spreads[i], spreads[i].runs - 1
        others = [other for j, other in enumerate(spreads) if j != i and other.runs > 1]
        weights = [other.runs - 1 for other in others]  # never empty: the pair's other head is one of them
        prior = np.average([other.seed_var for other in others], axis=0, weights=weights)
        own.append(spread.seed_var / spread.runs)
        mixed.append((own_df * spread.seed_var + BORROWED_DF * prior) / (own_df + BORROWED_DF) / spread.runs)
        df.append(np.full(prior.shape, own_df + BORROWED_DF * has_others))
    variance = np.maximum(own[0] + own[1], mixed[0] + mixed[1])
    # The variance over seeds contains the interaction's, so it is at least that.
    return np.asarray(np.maximum(variance, _residual(spreads[a], spreads[b]))), satterthwaite(mixed, df)


def _residual(a: HeadSpread, b: HeadSpread) -> Floats:
    """Returns the variance `m` of the difference through the interaction of seeds and images."""
    return (a.residual / a.runs + b.residual / b.runs) / len(a.per_image)


def unpaired_difference(spreads: Sequence[HeadSpread], a: int, b: int, *, with_seeds: bool = True) -> Estimate:
    """Estimates the difference of heads a and b; spreads: of all heads of the study, on the same images.

    The variances over seeds and over images both contain the interaction's, which is therefore subtracted once.
    with_seeds: False gives the images' variance alone.
    """
    per_image = spreads[a].per_image - spreads[b].per_image
    value = spreads[a].per_image.mean(axis=0) - spreads[b].per_image.mean(axis=0)
    images, images_df = image_variance(per_image)
    if not with_seeds:
        return Estimate(value, np.zeros_like(images), np.ones_like(images), images, images_df)
    seeds, seeds_df = seed_variance(spreads, a, b)
    return Estimate(value, seeds, seeds_df, np.maximum(0, images - _residual(spreads[a], spreads[b])), images_df)


def seeds_agree(contributions: Sequence[Floats], *, least_heads: int = MIN_PAIRED_HEADS) -> Mask:
    """Tests whether runs of one seed score alike whatever the head, `m`.

    contributions: of each head `s n m`, the seeds in one order.
    The F test of seeds in a layout of heads by seeds without repetition: the seeds' mean square over the residual's
    (Scheffe 1959). False for fewer than `least_heads` heads: the residual is then the variance of the
    very differences that are judged, and the test passes where it happens to be small.
    """
    scores = np.stack([of_head.mean(axis=1) for of_head in contributions])  # heads s m
    heads, s, m = scores.shape
    if heads < least_heads or s < 2:
        return np.zeros(m, bool)
    by_seed = scores.mean(axis=0)
    residual = scores - by_seed - scores.mean(axis=1, keepdims=True) + by_seed.mean(axis=0)
    df = s - 1, (heads - 1) * (s - 1)
    f = ratio(heads * by_seed.var(axis=0, ddof=1), (residual**2).sum(axis=(0, 1)) / df[1])
    return np.asarray(fdtrc(*df, f) < AGREEMENT)


def paired_difference(contributions: Sequence[Floats], a: int, b: int) -> Estimate:
    """Estimates the difference of heads a and b seed by seed.

    contributions: of all heads with the same seeds, `s n m`, the seeds in one order.
    As `unpaired_difference`, with the variance of the runs' differences: what a seed does to both heads cancels. The
    other pairs lend BORROWED_DF degrees of freedom where they vary more.
    """
    own = spread_of(contributions[a] - contributions[b])
    scores = [of_head.mean(axis=1) for of_head in contributions]  # s m
    others = [
        (scores[i] - scores[j]).var(axis=0, ddof=1)
        for i, j in itertools.combinations(range(len(scores)), 2)
        if {i, j} != {a, b}
    ]
    own_df = own.runs - 1
    df = own_df + BORROWED_DF * bool(others)
    prior = np.mean(others, axis=0) if others else own.seed_var
    mixed = (own_df * own.seed_var + BORROWED_DF * prior) / (own_df + BORROWED_DF)
    residual = own.residual / (own.runs * len(own.per_image))
    seeds = np.maximum(np.maximum(own.seed_var, mixed) / own.runs, residual)
    images, images_df = image_variance(own.per_image)
    value = own.per_image.mean(axis=0)
    return Estimate(value, seeds, np.full_like(seeds, df), np.maximum(0, images - residual), images_df)
