"""Differences between heads beyond the chance of seeds and images: intervals, tests, seeds still needed.

Estimated is the expected difference in data-set mIoU when both heads are trained with new seeds and scored on new
images. variance.py has its variance, docs/statistics.md explains the method. Scores and differences are fractions, not
points.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from segnl.core.arrays import Counts, Floats
from segnl.metrics.confusion import number_or_none
from segnl.metrics.statistics.variance import (
    LEVEL,
    Estimate,
    HeadSpread,
    class_contributions,
    miou_contributions,
    paired_difference,
    satterthwaite,
    seeds_agree,
    spread_of,
    unpaired_difference,
)

POWER = 0.8
MAX_SEEDS = 200
_ROUNDING = 1e-24
"""A variance below this is rounding: scores are of the order of 1."""


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
    the study's pairs.  is_by_seed: whether runs are compared seed by seed.  seeds_needed: number of seeds a head that
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
    return replace(
        result,
        low=value - half,
        high=value + half,
        p=float(estimate.p()[0]),
        is_by_seed=study.is_by_seed,
        seeds_needed=needed,
        needs_images=needed is None and _images_leave_open(estimate, num_pairs),
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
    """Returns the number of seeds a head with which a difference of this size is shown with probability POWER.

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


def _images_leave_open(estimate: Estimate, num_pairs: int) -> bool:
    """Whether a difference of this size would not be shown even if its seeds had no variance."""
    return bool(_detectable(estimate.images, estimate.images_df, num_pairs)[0] > abs(float(estimate.value[0])))
