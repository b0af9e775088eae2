"""Other intervals for the same differences, for readers who do not want to rely on ours; and runs that stand out."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from segnl.core.arrays import Floats, Mask
from segnl.metrics.confusion import ratio
from segnl.metrics.statistics.comparison import RunCounts
from segnl.metrics.statistics.contributions import group_sums
from segnl.metrics.statistics.variance import ALPHA

DRAWS = 1000
FALLEN_ALPHA = 0.05
"""Fraction of studies of normal scores in which `fallen_runs` lists a run."""
FALLEN_POINTS = 0.01
"""Least fall, in mIoU, that is pointed at."""


@dataclass(frozen=True)
class References:
    """Intervals of two common methods for one pair; None where there are too few runs or images.

    welch: Welch's t test over the runs' scores: new seeds on these images (Welch 1947).
    bootstrap: percentile interval of the hierarchical bootstrap, which draws each head's seeds and then images, or
    groups of images, that both heads share: new seeds and images, too narrow for few of either (Davison and Hinkley
    1997).
    """

    welch_low: float | None = None
    welch_high: float | None = None
    welch_p: float | None = None
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None


def reference_intervals(
    heads: Mapping[str, Sequence[RunCounts]],
    pairs: Sequence[tuple[str, str]],
    *,
    groups: Sequence[Hashable] | None = None,
) -> list[References]:
    """Returns the references of each pair (a, b), for a minus b, over the classes of the ground truth."""
    rng = np.random.default_rng(0)
    scores = {name: np.array([_miou(_totals(run), _is_compared(run)) for run in runs]) for name, runs in heads.items()}
    drawn = _bootstrap(rng, heads, groups)
    return [References(*_welch(scores[a], scores[b]), *_percentiles(drawn.get(a), drawn.get(b))) for a, b in pairs]


def _is_compared(run: RunCounts) -> Mask:
    return np.asarray((run.union if run.target is None else run.target).sum(axis=0) > 0)


def _totals(run: RunCounts) -> Floats:
    return np.stack([run.intersection.sum(axis=0), run.union.sum(axis=0)]).astype(np.float64)


def _miou(totals: Floats, is_compared: Mask) -> Floats:
    """Returns the mean IoU; totals: intersection and union, `2 ... k`. A class drawn nowhere is left out."""
    iou = ratio(*totals)[..., is_compared]
    return np.asarray(ratio(np.nansum(iou, axis=-1), np.isfinite(iou).sum(axis=-1)))


def _welch(a: Floats, b: Floats) -> tuple[float | None, float | None, float | None]:
    if min(len(a), len(b)) < 2:
        return None, None, None
    variances = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    total = sum(variances)
    if total == 0:
        return None, None, None
    df = total**2 / (variances[0] ** 2 / (len(a) - 1) + variances[1] ** 2 / (len(b) - 1))
    value, half = a.mean() - b.mean(), stdtrit(df, 1 - ALPHA / 2) * total**0.5
    return float(value - half), float(value + half), float(2 * stdtr(df, -abs(value) / total**0.5))


def _bootstrap(
    rng: np.random.Generator, heads: Mapping[str, Sequence[RunCounts]], groups: Sequence[Hashable] | None
) -> dict[str, Floats]:
    """Returns DRAWS mean scores of each head; all heads see the same images in a draw. Empty for one image or group."""
    runs = [run for own in heads.values() for run in own]
    n = len(runs[0].union) if groups is None else len(set(groups))
    if n < 2:
        return {}
    times = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)
    means = {}
    for name, own in heads.items():
        scores = []
        for run in own:
            counts = (run.intersection, run.union)
            units = counts if groups is None else tuple(group_sums(values, groups) for values in counts)
            scores.append(_miou(np.stack([times @ values for values in units]), _is_compared(run)))
        if scores:
            chosen = rng.integers(0, len(own), (len(own), DRAWS))
            means[name] = np.take_along_axis(np.stack(scores), chosen, axis=0).mean(axis=0)
    return means


def _percentiles(a: Floats | None, b: Floats | None) -> tuple[float | None, float | None]:
    if a is None or b is None:
        return None, None
    low, high = np.nanpercentile(a - b, [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)])
    return float(low), float(high)


def fallen_runs(scores: Mapping[str, Sequence[float]]) -> dict[tuple[str, int], float]:
    """Returns the runs that scored far below their siblings, by head and index, and by how much.

    scores: of each head's runs, in the order of their seeds.  A run is listed if it is below the mean of its siblings
    by FALLEN_POINTS, and so far that normal scores of one variance would list a run in one study of 1 / FALLEN_ALPHA:
    t test of the deleted residual, its variance pooled over all other runs, Bonferroni over the runs (Cook and Weisberg
    1982).
    """
    fallen = {}
    num_runs = sum(map(len, scores.values()))
    for head, i in ((head, i) for head, own in scores.items() for i in range(len(own))):
        others = {name: np.asarray(own) for name, own in scores.items()}
        others[head] = np.delete(others[head], i)
        df = sum(max(0, len(own) - 1) for own in others.values())
        if not len(others[head]) or not df:
            continue
        variance = sum(len(own) * float(own.var()) for own in others.values() if len(own)) / df
        fall = float(others[head].mean()) - scores[head][i]
        least = -stdtrit(df, FALLEN_ALPHA / num_runs) * (variance * (1 + 1 / len(others[head]))) ** 0.5
        if fall > max(FALLEN_POINTS, least):
            fallen[head, i] = fall
    return fallen
