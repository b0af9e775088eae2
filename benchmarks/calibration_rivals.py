"""Other ways to an interval for the same difference: what others use, and what was tried and left out."""

import numpy as np
from scipy.special import stdtrit

from segnl.core.arrays import Floats
from segnl.metrics.confusion import ratio
from segnl.metrics.statistics.variance import HeadSpread, image_variance, satterthwaite

BOOTSTRAP = 400
"""Sets of images that one interval draws."""


def bootstrap(rng: np.random.Generator, right: Floats, union: Floats) -> tuple[Floats, Floats]:
    """Ends of the plain percentile bootstrap over images; counts of two heads, `studies 2 seeds images classes`.

    The runs are taken as they are: every drawn set of images gives each run's data-set mIoU anew, exactly.
    """
    studies, _, seeds, n, k = right.shape
    low, high = np.empty(studies), np.empty(studies)
    for i in range(studies):
        times = rng.multinomial(n, np.full(n, 1 / n), size=BOOTSTRAP).astype(np.float64)
        flat = [np.moveaxis(counts[i], 2, 0).reshape(n, -1).astype(np.float64) for counts in (right, union)]
        iou = ratio(times @ flat[0], times @ flat[1]).reshape(BOOTSTRAP, 2, seeds, k)
        miou = np.nanmean(iou, axis=3).mean(axis=2)
        low[i], high[i] = np.percentile(miou[:, 0] - miou[:, 1], [2.5, 97.5])
    return low, high


def plain_sum(spreads: list[HeadSpread], a: int, b: int) -> Floats:
    """Half widths `m`: variance of the seeds (each head's own) plus variance of the images, Satterthwaite's t.

    What a seed does to single images is counted twice, and a head's variance has its own degrees of freedom only.
    """
    one, other = spreads[a], spreads[b]
    images, images_df = image_variance(one.per_image - other.per_image)
    parts = [one.seed_var / one.runs, other.seed_var / other.runs, images]
    df = [np.full_like(images, one.runs - 1), np.full_like(images, other.runs - 1), images_df]
    return np.asarray(stdtrit(satterthwaite(parts, df), 0.975) * np.sqrt(sum(parts)))


def pooled(spreads: list[HeadSpread], a: int, b: int) -> Floats:
    """Half widths `m` when one variance over seeds is taken for all heads of the study, else as segnl's."""
    one, other = spreads[a], spreads[b]
    images, images_df = image_variance(one.per_image - other.per_image)
    n = len(one.per_image)
    both = (one.residual / one.runs + other.residual / other.runs) / n
    free = sum(each.runs - 1 for each in spreads)
    variance = sum((each.runs - 1) * each.seed_var for each in spreads) / free
    seeds = np.maximum(variance * (1 / one.runs + 1 / other.runs), both)
    images = np.maximum(0, images - both)
    df = satterthwaite([seeds, images], [np.full_like(images, free), images_df])
    return np.asarray(stdtrit(df, 0.975) * np.sqrt(seeds + images))
