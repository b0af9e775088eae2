"""Planning of a study: seeds that an open pair still needs, and verdicts after several looks at the results."""

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import chdtri, ndtr, ndtri, stdtrit

from segnl.core.arrays import Floats, Mask
from segnl.metrics.statistics.variance import ALPHA, Estimate, satterthwaite

POWER = 0.8
MAX_SEEDS = 200
SPREAD_CONFIDENCE = 0.8
"""Confidence of the upper bound of the spread over seeds in the upper number of `seeds_needed` (Browne 1995)."""
_GRID = 161
_LEVELS = tuple(float(level) for level in sorted({*np.geomspace(1e-9, 0.99, 40), ALPHA}))


def detectable(variance: Floats, df: Floats, num_pairs: int) -> Floats:
    """Returns the smallest difference that passes Holm's first step over num_pairs with probability POWER."""
    return np.asarray((stdtrit(df, 1 - ALPHA / 2 / num_pairs) + stdtrit(df, POWER)) * np.sqrt(variance))


def detectable_with(
    estimate: Estimate, runs: tuple[int, int], num_seeds: Floats, num_pairs: int, *, is_by_seed: bool, excess: float = 1
) -> Floats:
    """Returns `detectable` for other numbers of seeds per head: for several of them, or for several measures.

    estimate: from `runs` runs of the two heads.  excess: factor on its variance through the seeds.
    """
    single = excess * estimate.seeds * 2 / (1 / runs[0] + 1 / runs[1])  # variance of one run of each
    seeds, images = np.broadcast_arrays(single / num_seeds, estimate.images)
    seeds_df = (1 if is_by_seed else 2) * (num_seeds - 1)
    df = satterthwaite([seeds, images], [seeds_df, estimate.images_df])
    return detectable(seeds + images, df, num_pairs)


def seeds_needed(
    estimate: Estimate, runs: tuple[int, int], num_pairs: int, *, is_by_seed: bool = False
) -> tuple[int, int | None] | None:
    """Returns numbers of seeds per head, from and to, that show a difference of this size with probability POWER.

    The difference has to pass Holm's first and hardest step over num_pairs.  The first number takes the spread over
    seeds as estimated; the second takes its upper bound of confidence SPREAD_CONFIDENCE, since a few seeds estimate it
    badly (Browne 1995).  The first is MAX_SEEDS and the second None when more would be needed.  None when the
    difference is within one standard error of 0: then there is no size to plan for.
    """
    difference, seeds_df = abs(float(estimate.value[0])), float(estimate.seeds_df[0])
    if difference < np.sqrt(estimate.variance[0]):
        return None
    num_seeds = np.arange(max(3, min(runs) + 1), MAX_SEEDS + 1, dtype=np.float64)
    needed = []
    for excess in (1.0, seeds_df / float(chdtri(seeds_df, SPREAD_CONFIDENCE))):
        smallest = detectable_with(estimate, runs, num_seeds, num_pairs, is_by_seed=is_by_seed, excess=excess)
        enough = np.flatnonzero(smallest <= difference)
        needed.append(int(num_seeds[enough[0]]) if enough.size else None)
    return (MAX_SEEDS if needed[0] is None else needed[0]), needed[1]


def is_out_of_reach(estimate: Estimate, runs: tuple[int, int], most: int, num_pairs: int, *, is_by_seed: bool) -> Mask:
    """Tells whether `most` seeds per head are too few even for the far end of the difference's 80 % interval.

    Too few: they would show it with a probability below POWER.
    """
    smallest = detectable_with(estimate, runs, np.array([float(most)]), num_pairs, is_by_seed=is_by_seed)
    return np.asarray(smallest > np.abs(estimate.value) + estimate.half_width(1 - POWER))


@dataclass(frozen=True)
class Looks:
    """Times at which a study is judged by plan. so_far: numbers of seeds per head, ascending, this look's the last.

    most: number of seeds per head at which the study ends in any case.
    """

    so_far: tuple[int, ...]
    most: int

    def __post_init__(self) -> None:
        if not self.so_far or list(self.so_far) != sorted({*self.so_far}) or not 1 < self.most >= self.so_far[-1]:
            raise ValueError(
                f"looks: {self.so_far} of {self.most} seeds; expected ascending numbers, none above the last"
            )


def nominal_alpha(looks: Looks | None) -> float:
    """Returns the level at which this look is judged, so that all planned looks together err with probability ALPHA.

    None: the study is judged once, at ALPHA.
    """
    return ALPHA if looks is None else _nominal_level(looks, ALPHA)


def adjusted_p(p: float, looks: Looks | None) -> float:
    """Returns the smallest total level at which a p value of this look rejects; p itself for a single look.

    Below ALPHA if and only if p is below `nominal_alpha`. Source: Liu and Anderson 2008 (sequential p values).
    """
    if looks is None:
        return p
    nominal = np.array([_nominal_level(looks, level) for level in _LEVELS])
    if p <= nominal[0]:
        return p * _LEVELS[0] / float(nominal[0])
    return 1.0 if p >= nominal[-1] else float(np.exp(np.interp(np.log(p), np.log(nominal), np.log(_LEVELS))))


@lru_cache(maxsize=4096)
def _nominal_level(looks: Looks, alpha: float) -> float:
    """Returns the two-sided level of this look when the share of alpha that is spent grows as the number of seeds.

    The information of a look is its share of the most seeds; the sum of the observations is then a Brownian motion,
    which leaves the bounds for the first time at a look with the probability that is spent there. Spending functions:
    Lan and DeMets 1983, the linear one Kim and DeMets 1987; recursion: Armitage, McPherson and Rowe 1969. Estimates
    that share their images are more alike from look to look than assumed, which errs on the safe side.
    """
    times = np.array(looks.so_far, np.float64) / looks.most
    spent = np.diff(alpha * times, prepend=0.0)
    bound = -float(ndtri(spent[0] / 2)) * times[0] ** 0.5
    x, weight = _nodes(bound)
    density = np.exp(-(x**2) / 2 / times[0]) / np.sqrt(2 * np.pi * times[0]) * weight
    for (before, now), to_spend in zip(itertools.pairwise(times), spent[1:], strict=True):
        sd = (now - before) ** 0.5
        low, high = 0.0, 12.0
        for _ in range(60):
            bound = (low + high) / 2
            leaves = density @ (ndtr((x - bound) / sd) + ndtr((-x - bound) / sd))
            low, high = (bound, high) if leaves > to_spend else (low, bound)
        y, weight = _nodes(bound)
        steps = np.exp(-((y[:, None] - x) ** 2) / 2 / sd**2) / np.sqrt(2 * np.pi) / sd
        x, density = y, (steps @ density) * weight
    return float(2 * ndtr(-bound / times[-1] ** 0.5))


def _nodes(bound: float) -> tuple[Floats, Floats]:
    """Returns nodes and weights of Simpson's rule on [-bound, bound]."""
    weight = np.full(_GRID, 2.0)
    weight[1::2], weight[0], weight[-1] = 4.0, 1.0, 1.0
    return np.linspace(-bound, bound, _GRID), weight * (2 * bound / (_GRID - 1)) / 3
