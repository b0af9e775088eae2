"""Planning of a study: seeds that an open pair still needs, and verdicts after several looks at the results."""

import itertools
from collections.abc import Sequence
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


def is_out_of_reach(
    estimate: Estimate, half: Floats, runs: tuple[int, int], most: int, num_pairs: int, *, is_by_seed: bool
) -> Mask:
    """Tells whether `most` seeds per head would not show a difference even of the size of the interval's far end."""
    smallest = detectable_with(estimate, runs, np.array([float(most)]), num_pairs, is_by_seed=is_by_seed)
    return np.asarray(smallest > np.abs(estimate.value) + half)


def nominal_alpha(looks: Sequence[int], num_seeds: int) -> float:
    """Returns the level at which a look is judged, so that all planned looks together err with probability ALPHA.

    looks: the planned numbers of seeds per head, ascending; num_seeds: one of them. ALPHA for a single look.
    """
    return _nominal_levels(tuple(looks), ALPHA)[_look(looks, num_seeds)] if len(looks) > 1 else ALPHA


def adjusted_p(p: float, looks: Sequence[int], num_seeds: int) -> float:
    """Returns the smallest total level at which a p value of this look rejects; p itself for a single look.

    Below ALPHA if and only if p is below `nominal_alpha`. Source: Liu and Anderson 2008 (sequential p values).
    """
    if len(looks) < 2:
        return p
    look = _look(looks, num_seeds)
    nominal = np.array([_nominal_levels(tuple(looks), level)[look] for level in _LEVELS])
    if p <= nominal[0]:
        return p * _LEVELS[0] / float(nominal[0])
    return 1.0 if p >= nominal[-1] else float(np.exp(np.interp(np.log(p), np.log(nominal), np.log(_LEVELS))))


def _look(looks: Sequence[int], num_seeds: int) -> int:
    if num_seeds not in looks:
        raise ValueError(f"looks: {list(looks)}; expected the runs' number of seeds per head, {num_seeds}, among them")
    return list(looks).index(num_seeds)


@lru_cache(maxsize=1024)
def _nominal_levels(looks: tuple[int, ...], alpha: float) -> tuple[float, ...]:
    """Returns the two-sided level of each look when the share of alpha that is spent grows as the number of seeds.

    The information of a look is its share of the last look's seeds; the sum of the observations is then a Brownian
    motion, which leaves the bounds for the first time at a look with the probability that is spent there. Spending
    functions: Lan and DeMets 1983, the linear one Kim and DeMets 1987; recursion: Armitage, McPherson and Rowe 1969.
    Estimates that share their images are more alike from look to look than assumed, which errs on the safe side.
    """
    times = np.array(looks, np.float64) / looks[-1]
    spent = np.diff(alpha * times, prepend=0.0)
    bound = -float(ndtri(spent[0] / 2)) * times[0] ** 0.5
    levels = [float(spent[0])]
    x, weight = _nodes(bound)
    density = np.exp(-(x**2) / 2 / times[0]) / np.sqrt(2 * np.pi * times[0]) * weight
    for (before, now), to_spend in zip(itertools.pairwise(times), spent[1:], strict=True):
        sd = (now - before) ** 0.5
        low, high = 0.0, 12.0
        for _ in range(60):
            bound = (low + high) / 2
            leaves = density @ (ndtr((x - bound) / sd) + ndtr((-x - bound) / sd))
            low, high = (bound, high) if leaves > to_spend else (low, bound)
        levels.append(float(2 * ndtr(-bound / now**0.5)))
        y, weight = _nodes(bound)
        steps = np.exp(-((y[:, None] - x) ** 2) / 2 / sd**2) / np.sqrt(2 * np.pi) / sd
        x, density = y, (steps @ density) * weight
    return tuple(levels)


def _nodes(bound: float) -> tuple[Floats, Floats]:
    """Returns nodes and weights of Simpson's rule on [-bound, bound]."""
    weight = np.full(_GRID, 2.0)
    weight[1::2], weight[0], weight[-1] = 4.0, 1.0, 1.0
    return np.linspace(-bound, bound, _GRID), weight * (2 * bound / (_GRID - 1)) / 3
