"""Other intervals for the same difference: common ones, and ones that were tried and not used."""

import numpy as np
from scipy.special import chdtrc, stdtrit

from segnl.core.arrays import Floats
from segnl.metrics.confusion import ratio
from segnl.metrics.statistics.variance import Estimate, HeadSpread, image_variance, satterthwaite

BOOTSTRAP = 400
"""Sets of images drawn for an interval."""


def linearised_contributions(intersection: Floats, union: Floats) -> Floats:
    """Returns contributions `... n k` by the delta method: the jackknife's without 1 / (1 - h), as segnl's were."""
    total = union.sum(axis=-2, keepdims=True)
    iou = ratio(intersection.sum(axis=-2, keepdims=True), total)
    return np.asarray(iou + (intersection - iou * union) * ratio(intersection.shape[-2], total))


def bootstrap(rng: np.random.Generator, intersection: Floats, union: Floats) -> tuple[Floats, Floats]:
    """Returns the ends of the percentile bootstrap over images; counts of two heads, `studies 2 seeds images classes`.

    The runs are fixed: every drawn set of images gives each run's exact data-set mIoU.
    """
    studies, _, seeds, n, k = intersection.shape
    low, high = np.empty(studies), np.empty(studies)
    for i in range(studies):
        times = rng.multinomial(n, np.full(n, 1 / n), size=BOOTSTRAP).astype(np.float64)
        flat = [np.moveaxis(counts[i], 2, 0).reshape(n, -1).astype(np.float64) for counts in (intersection, union)]
        iou = ratio(times @ flat[0], times @ flat[1]).reshape(BOOTSTRAP, 2, seeds, k)
        miou = np.nanmean(iou, axis=3).mean(axis=2)
        low[i], high[i] = np.percentile(miou[:, 0] - miou[:, 1], [2.5, 97.5])
    return low, high


def plain_sum(spreads: list[HeadSpread], a: int, b: int) -> Floats:
    """Returns half widths `m`: each head's variance over seeds plus the variance over images, Satterthwaite's t.

    The interaction of seeds and images is counted twice, and a head's variance has only its own degrees of freedom.
    """
    of_a, of_b = spreads[a], spreads[b]
    images, images_df = image_variance(of_a.per_image - of_b.per_image)
    variances = [of_a.seed_var / of_a.runs, of_b.seed_var / of_b.runs, images]
    df = [np.full_like(images, of_a.runs - 1), np.full_like(images, of_b.runs - 1), images_df]
    return np.asarray(stdtrit(satterthwaite(variances, df), 0.975) * np.sqrt(sum(variances)))


def pooled(spreads: list[HeadSpread], a: int, b: int) -> Floats:
    """Returns half widths `m` with one variance over seeds for all heads of the study, else as segnl's."""
    return pooled_difference(spreads, a, b).half_width()


def pooled_difference(spreads: list[HeadSpread], a: int, b: int) -> Estimate:
    """Estimates the difference of heads a and b with one variance over seeds for all heads of the study."""
    of_a, of_b = spreads[a], spreads[b]
    images, images_df = image_variance(of_a.per_image - of_b.per_image)
    residual = (of_a.residual / of_a.runs + of_b.residual / of_b.runs) / len(of_a.per_image)
    pooled_df = sum(spread.runs - 1 for spread in spreads)
    variance = sum((spread.runs - 1) * spread.seed_var for spread in spreads) / pooled_df
    seeds = np.maximum(variance * (1 / of_a.runs + 1 / of_b.runs), residual)
    value = of_a.per_image.mean(axis=0) - of_b.per_image.mean(axis=0)
    return Estimate(value, seeds, np.full_like(seeds, pooled_df), np.maximum(0, images - residual), images_df)


def bartlett_p(spreads: list[HeadSpread]) -> Floats:
    """Returns p values `m` of the test of equal variances of heads with equally many runs (Bartlett 1937)."""
    variances, df, k = np.stack([spread.seed_var for spread in spreads]), spreads[0].runs - 1, len(spreads)
    statistic = k * df * np.log(variances.mean(axis=0)) - df * np.log(variances).sum(axis=0)
    return np.asarray(chdtrc(k - 1, statistic / (1 + (k / df - 1 / (k * df)) / (3 * (k - 1)))))
