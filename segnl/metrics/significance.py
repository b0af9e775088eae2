"""Differences between heads beyond the chance of seeds and images: intervals, tests, seeds still needed.

Estimated is the expected difference in data-set mIoU when both heads are trained with new seeds and scored on new
images. Data-set IoU is a ratio of sums. Each image is given its first-order contribution (its influence); the mean of
the contributions is the score exactly. docs/statistics.md explains the method, benchmarks/calibrate.py measures it.

Legend: s runs of one head with different seeds, n images, k classes, m measures (the mIoU, or the classes). Scores and
differences are fractions, not points.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import fdtrc, stdtr, stdtrit

from segnl.core.arrays import Counts, Floats, Mask
from segnl.metrics.confusion import number_or_none, ratio

LEVEL = 0.95
POWER = 0.8
MAX_SEEDS = 200
BORROWED_DF = 0.5
"""Degrees of freedom that a head's variance over seeds borrows from the other heads of the study."""
AGREEMENT = 0.01
"""Level of the F test of `seeds_agree`."""
_ROUNDING = 1e-24
"""A variance below this is rounding: scores are of the order of 1."""


def class_contributions(intersection: npt.ArrayLike, union: npt.ArrayLike) -> Floats:
    """Returns each image's contribution to each class's IoU: counts `... n k` -> f64 `... n k`.

    The mean over n is the IoU. With I and U the sums over the images, a contribution is
    I/U + n (intersection - I/U union) / U, the ratio's first-order expansion.
    NaN for a class in neither label nor prediction of any image.
    """
    intersection, union = np.asarray(intersection, np.float64), np.asarray(union, np.float64)
    total = union.sum(axis=-2, keepdims=True)
    iou = ratio(intersection.sum(axis=-2, keepdims=True), total)
    return np.asarray(iou + (intersection - iou * union) * ratio(intersection.shape[-2], total))


def miou_contributions(intersection: npt.ArrayLike, union: npt.ArrayLike) -> Floats:
    """Returns each image's contribution to the mIoU: counts `... n k` -> f64 `... n`.

    The mean over n is the mIoU. Classes in neither label nor prediction are left out, as in `Confusion.miou`; NaN when
    there are no others.
    """
    by_class = class_contributions(intersection, union)
    num_defined = np.isfinite(by_class[..., :1, :]).sum(axis=-1)  # a class is undefined in all images or in none
    return np.asarray(np.nansum(by_class, axis=-1) * ratio(1, num_defined))


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
    """Differences `m`, and the two components of their variance with their degrees of freedom."""

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
        """Satterthwaite's degrees of freedom of the sum."""
        return satterthwaite([self.seeds, self.images], [self.seeds_df, self.images_df])

    def half_width(self) -> Floats:
        """Returns half the width of the two-sided interval of level LEVEL."""
        return np.asarray(stdtrit(self.df, 0.5 + LEVEL / 2) * np.sqrt(self.variance))

    def p(self) -> Floats:
        """Returns the two-sided p value of the hypothesis that the expected difference is 0."""
        t = ratio(np.abs(self.value), np.sqrt(self.variance))
        return np.asarray(2 * stdtr(self.df, -t))


def satterthwaite(variances: Sequence[Floats], df: Sequence[Floats]) -> Floats:
    """Returns the degrees of freedom of a sum of independent variance estimates, at most 1e6; NaN when all are 0.

    (sum of variances)^2 / sum of (variance^2 / df): a t distribution with them matches the sum's first two moments.
    """
    total = np.sum(variances, axis=0)
    spread = np.sum([variance**2 / own_df for variance, own_df in zip(variances, df, strict=True)], axis=0)
    return np.asarray(np.minimum(ratio(total**2, spread), 1e6))


def image_variance(by_image: Floats) -> tuple[Floats, Floats]:
    """Returns the variance `m` of a difference through the choice of images, for these runs, and its df.

    by_image: the difference in every image, `n m`; an image that is hard for both heads adds nothing. A class in few
    images makes a few large contributions; their excess kurtosis lowers the degrees of freedom.
    """
    n = len(by_image)
    centred = by_image - by_image.mean(axis=0)
    square = (centred**2).mean(axis=0)
    excess = np.nan_to_num(np.maximum(0, ratio((centred**4).mean(axis=0), square**2) - 3))
    return square / (n - 1), 2 / (2 / (n - 1) + excess / n)


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


def seeds_agree(contributions: Sequence[Floats]) -> Mask:
    """Tests whether runs of one seed score alike whatever the head, `m`.

    contributions: of each head `s n m`, the seeds in one order.
    The F test of seeds in a layout of heads by seeds without repetition: the seeds' mean square over the residual's.
    """
    scores = np.stack([of_head.mean(axis=1) for of_head in contributions])  # heads s m
    heads, s, m = scores.shape
    if heads < 2 or s < 2:
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


@dataclass(frozen=True)
class RunCounts:
    """Pixels of one run by image and class, int64 `n k` each: intersection and union of label and prediction.

    seed: of its training; runs of one seed start from the same weights and see the same batches, whatever the head.
    target: labelled pixels, None where they are not known.
    """

    intersection: Counts
    union: Counts
    seed: int | None = None
    target: Counts | None = None


@dataclass(frozen=True)
class Comparison:
    """mIoU of head `a` minus that of head `b`. None stands for an unknown value, and `reason` says why.

    low, high: the 95 % interval for new seeds and new images.  images_low, images_high: for these networks on new
    images only, which says nothing about the heads.  p: p value of no difference; p_holm: after Holm's correction over
    the study's pairs.  is_by_seed: whether runs are paired by seed.  seeds_needed: number of seeds per head that
    would settle an open pair; None also when more than MAX_SEEDS would be needed.  needs_images: whether the variance
    over images alone leaves the pair open, so that no number of seeds settles it.
    """

    a: str
    b: str
    seeds_a: int
    seeds_b: int
    difference: float | None
    low: float | None = None
    high: float | None = None
    images_low: float | None = None
    images_high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    is_by_seed: bool = False
    seeds_needed: int | None = None
    needs_images: bool = False
    reason: str = ""

    @property
    def is_separable(self) -> bool:
        return self.p_holm is not None and self.p_holm < 1 - LEVEL


@dataclass(frozen=True)
class ClassDifference:
    """One class's IoU of head `a` minus that of head `b`; None where undefined. Not corrected over the classes.

    is_about_heads: whether the interval covers new seeds, or new images only.
    """

    index: int
    difference: float | None
    low: float | None
    high: float | None
    is_about_heads: bool


def compare_heads(heads: Mapping[str, Sequence[RunCounts]]) -> list[Comparison]:
    """Compares every head with every earlier one; heads: the valid runs by name.

    Raises ValueError when two runs do not hold counts of the same images and classes.
    """
    study, names = _study(heads, _miou_contributions), list(heads)
    num_pairs = len(names) * (len(names) - 1) // 2
    pairs = [_compare(study, a, b, num_pairs) for i, b in enumerate(names) for a in names[i + 1 :]]
    corrected = holm([pair.p for pair in pairs])
    pairs = [replace(pair, p_holm=p) for pair, p in zip(pairs, corrected, strict=True)]
    return [replace(pair, seeds_needed=None, needs_images=False) if pair.is_separable else pair for pair in pairs]


def class_differences(heads: Mapping[str, Sequence[RunCounts]], a: str, b: str) -> list[ClassDifference]:
    """Compares every class's IoU of heads `a` and `b`; None where a run has no such class."""
    if not heads[a] or not heads[b]:
        return []
    study = _study(heads, lambda run: class_contributions(run.intersection, run.union))
    of_a, of_b = study.contributions[a], study.contributions[b]
    value = of_a.mean(axis=(0, 1)) - of_b.mean(axis=(0, 1))
    is_about_heads = min(len(of_a), len(of_b)) > 1
    half = np.full(value.shape, np.nan)
    if of_a.shape[1] > 1:
        estimate = study.difference(a, b, with_seeds=is_about_heads)
        half = np.where(estimate.variance < _ROUNDING, np.nan, estimate.half_width())
    low, high = value - half, value + half
    return [
        ClassDifference(c, number_or_none(value[c]), number_or_none(low[c]), number_or_none(high[c]), is_about_heads)
        for c in range(len(value))
    ]


@dataclass(frozen=True)
class _Study:
    """Contributions `s n m` and their spread of the heads that have runs, by name."""

    contributions: dict[str, Floats]
    spreads: dict[str, HeadSpread]
    is_by_seed: bool

    def difference(self, a: str, b: str, *, with_seeds: bool = True) -> Estimate:
        if self.is_by_seed and with_seeds:
            several = {name: values for name, values in self.contributions.items() if len(values) > 1}
            names = list(several)
            return paired_difference(list(several.values()), names.index(a), names.index(b))
        names = list(self.spreads)
        return unpaired_difference(list(self.spreads.values()), names.index(a), names.index(b), with_seeds=with_seeds)


def _miou_contributions(run: RunCounts) -> Floats:
    return miou_contributions(run.intersection, run.union)[:, None]


def _study(heads: Mapping[str, Sequence[RunCounts]], contributions_of: Callable[[RunCounts], Floats]) -> _Study:
    """contributions_of: a run's contributions `n m` to the measures compared. The mIoU decides on pairing by seed."""
    shapes = {counts.shape for runs in heads.values() for run in runs for counts in (run.intersection, run.union)}
    if len(shapes) > 1:
        raise ValueError(f"counts of shapes {sorted(shapes)}; expected the same images and classes in every run")
    contributions = {name: np.stack([contributions_of(run) for run in runs]) for name, runs in heads.items() if runs}
    spreads = {name: spread_of(values) for name, values in contributions.items()}
    return _Study(contributions, spreads, _is_by_seed(heads))


def _is_by_seed(heads: Mapping[str, Sequence[RunCounts]]) -> bool:
    """Whether all heads of several runs were trained with the same seeds, and runs of one seed score alike."""
    several = [runs for runs in heads.values() if len(runs) > 1]
    seeds = {tuple(run.seed for run in runs) for runs in several}
    if len(seeds) != 1 or None in (common := seeds.pop()) or len(set(common)) < len(common):
        return False
    return bool(seeds_agree([np.stack([_miou_contributions(run) for run in runs]) for runs in several])[0])


def _compare(study: _Study, a: str, b: str, num_pairs: int) -> Comparison:
    runs = len(study.contributions.get(a, ())), len(study.contributions.get(b, ()))
    if min(runs) == 0:
        return Comparison(a, b, *runs, None, reason=f"no run of {a if runs[0] == 0 else b} counts")
    of_a, of_b = study.spreads[a], study.spreads[b]
    value = float(of_a.per_image.mean() - of_b.per_image.mean())
    if not np.isfinite(value):
        return Comparison(a, b, *runs, None, reason="no labelled pixel")
    if len(of_a.per_image) < 2:
        return Comparison(a, b, *runs, value, reason="one image")
    images = study.difference(a, b, with_seeds=False)
    is_constant = images.variance[0] < _ROUNDING
    if is_constant and abs(value) < np.sqrt(_ROUNDING):
        if min(runs) < 2:
            return Comparison(a, b, *runs, 0.0, images_low=0.0, images_high=0.0, reason="one seed")
        return Comparison(a, b, *runs, 0.0, 0.0, 0.0, 0.0, 0.0, p=1.0, reason="identical in every image")
    result = Comparison(a, b, *runs, value)
    if not is_constant:
        half = float(images.half_width()[0])
        result = replace(result, images_low=value - half, images_high=value + half)
    if min(runs) < 2:
        return replace(result, reason="one seed")
    constant = [name for name, spread in ((a, of_a), (b, of_b)) if spread.seed_var[0] < _ROUNDING]
    if constant:
        return replace(result, reason=f"every seed of {' and '.join(constant)} scored the same")
    estimate = study.difference(a, b)
    half = float(estimate.half_width()[0])
    needed = seeds_needed(estimate, runs, num_pairs, is_by_seed=study.is_by_seed)
    without_seeds = _detectable(estimate.images, estimate.images_df, num_pairs)[0]
    return replace(
        result,
        low=value - half,
        high=value + half,
        p=float(estimate.p()[0]),
        is_by_seed=study.is_by_seed,
        seeds_needed=needed,
        needs_images=needed is None and bool(without_seeds > abs(value)),
    )


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Returns Holm's step-down correction (Holm 1979) of the p values that are known; the others stay None."""
    order = sorted((value, i) for i, value in enumerate(p) if value is not None)
    corrected: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * value))
        corrected[i] = highest
    return corrected


def seeds_needed(estimate: Estimate, runs: tuple[int, int], num_pairs: int, *, is_by_seed: bool = False) -> int | None:
    """Returns the number of seeds per head with which a difference of this size is shown with probability POWER.

    estimate: of one measure, from `runs` runs of the two heads.  The difference has to pass Holm's first and hardest
    step over num_pairs.  None when MAX_SEEDS are not enough, such as when the variance over images is too large.
    """
    single = float(estimate.seeds[0]) * 2 / (1 / runs[0] + 1 / runs[1])  # variance through the seeds, one run each
    num_seeds = np.arange(max(3, min(runs) + 1), MAX_SEEDS + 1, dtype=np.float64)
    seeds, images = single / num_seeds, np.full_like(num_seeds, float(estimate.images[0]))
    seeds_df = (1 if is_by_seed else 2) * (num_seeds - 1)
    df = satterthwaite([seeds, images], [seeds_df, np.full_like(num_seeds, float(estimate.images_df[0]))])
    enough = np.flatnonzero(_detectable(seeds + images, df, num_pairs) <= abs(float(estimate.value[0])))
    return int(num_seeds[enough[0]]) if enough.size else None


def _detectable(variance: Floats, df: Floats, num_pairs: int) -> Floats:
    """Returns the smallest difference that passes Holm's first step over num_pairs with probability POWER."""
    return np.asarray((stdtrit(df, 1 - (1 - LEVEL) / 2 / num_pairs) + stdtrit(df, POWER)) * np.sqrt(variance))
