"""Is the difference between two heads more than chance of seeds and of images? Intervals, tests, seeds still needed.

What is estimated: by how much the data-set mIoU of one head is expected to exceed another's when both are trained with
new seeds and scored on new images. variance.py has how sure that is, docs/statistics.md explains the method. Scores and
differences are fractions, not points.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from segnl.core.arrays import Counts, Floats
from segnl.metrics.statistics.variance import (
    LEVEL,
    Difference,
    HeadSpread,
    class_contributions,
    contributions,
    difference_of,
    paired_difference,
    satterthwaite,
    seeds_agree,
    spread_of,
)

POWER = 0.8
MAX_SEEDS = 200
_NOTHING = 1e-24
"""A variance below this is rounding: scores are of the order of 1."""


@dataclass(frozen=True)
class RunCounts:
    """One run's pixels of every image and class: intersection and union of truth and prediction, int64 `n k` each.

    seed: of its training; runs of one seed began with the same weights and saw the same batches, whatever the head.
    """

    right: Counts
    union: Counts
    seed: int | None = None


@dataclass(frozen=True)
class Pair:
    """Head `a` against head `b`. None stands for what cannot be known, and `reason` says why.

    low, high: the 95 % interval for new seeds and new images.  images_low, images_high: for these networks on new
    images, which says nothing about the heads.  p: of no difference, p_holm after Holm's correction over the study's
    pairs.  is_by_seed: whether runs were compared seed by seed.  seeds_needed: how many each head should have to settle
    an open pair; None also when no number up to MAX_SEEDS would do.  needs_images: no number of seeds at all would, for
    the images alone leave it open.
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
    """One class's IoU of head `a` less that of head `b`; None where undefined. No correction over the classes.

    is_about_heads: whether the interval covers new seeds, or new images alone.
    """

    index: int
    difference: float | None
    low: float | None
    high: float | None
    is_about_heads: bool


def compare_heads(heads: Mapping[str, Sequence[RunCounts]]) -> list[Pair]:
    """Every later head against every earlier one; heads: the runs that count, by name.

    Raises ValueError when two runs do not hold counts of the same images and classes.
    """
    study, names = _measured(heads, _of_miou), list(heads)
    num_pairs = len(names) * (len(names) - 1) // 2
    pairs = [_pair(study, a, b, num_pairs) for i, b in enumerate(names) for a in names[i + 1 :]]
    corrected = holm([pair.p for pair in pairs])
    done = [replace(pair, p_holm=p) for pair, p in zip(pairs, corrected, strict=True)]
    return [replace(pair, seeds_needed=None, needs_images=False) if pair.is_separable else pair for pair in done]


def class_differences(heads: Mapping[str, Sequence[RunCounts]], a: str, b: str) -> list[ClassDifference]:
    """Every class's IoU of head `a` less that of `b`, with intervals; None where a run has no such class."""
    if not heads[a] or not heads[b]:
        return []
    study = _measured(heads, lambda run: class_contributions(run.right, run.union))
    one, other = study.parts[a], study.parts[b]
    value = one.mean(axis=(0, 1)) - other.mean(axis=(0, 1))
    is_about_heads = min(len(one), len(other)) > 1
    half = np.full(value.shape, np.nan)
    if one.shape[1] > 1:
        found = study.difference(a, b, with_seeds=is_about_heads)
        half = np.where(found.variance < _NOTHING, np.nan, found.half_width())
    return [
        ClassDifference(c, _known(value[c]), _known(value[c] - half[c]), _known(value[c] + half[c]), is_about_heads)
        for c in range(len(value))
    ]


@dataclass(frozen=True)
class _Measured:
    """The heads that have runs: contributions `s n m` and their spread, by name; whether seeds are to be paired."""

    parts: dict[str, Floats]
    spreads: dict[str, HeadSpread]
    is_by_seed: bool

    def difference(self, a: str, b: str, *, with_seeds: bool = True) -> Difference:
        if self.is_by_seed and with_seeds:
            several = {name: each for name, each in self.parts.items() if len(each) > 1}
            return paired_difference(list(several.values()), *_places(several, a, b))
        return difference_of(list(self.spreads.values()), *_places(self.spreads, a, b), with_seeds=with_seeds)


def _places(names: Iterable[str], *wanted: str) -> list[int]:
    return [list(names).index(each) for each in wanted]


def _of_miou(run: RunCounts) -> Floats:
    return contributions(run.right, run.union)[:, None]


def _measured(heads: Mapping[str, Sequence[RunCounts]], contributed: Callable[[RunCounts], Floats]) -> _Measured:
    """contributed: a run's contributions `n m` to what is compared. Whether seeds are paired is up to the mIoU."""
    _require_one_shape(heads)
    parts = {name: np.stack([contributed(run) for run in runs]) for name, runs in heads.items() if runs}
    return _Measured(parts, {name: spread_of(each) for name, each in parts.items()}, _is_by_seed(heads))


def _is_by_seed(heads: Mapping[str, Sequence[RunCounts]]) -> bool:
    """Whether all heads of several runs were trained with the same seeds, and runs of one seed score alike."""
    several = [runs for runs in heads.values() if len(runs) > 1]
    seeds = {tuple(run.seed for run in runs) for runs in several}
    if len(seeds) != 1 or None in (common := seeds.pop()) or len(set(common)) < len(common):
        return False
    return bool(seeds_agree([np.stack([_of_miou(run) for run in runs]) for runs in several])[0])


def _require_one_shape(heads: Mapping[str, Sequence[RunCounts]]) -> None:
    shapes = {array.shape for runs in heads.values() for run in runs for array in (run.right, run.union)}
    if len(shapes) > 1:
        raise ValueError(f"counts of shapes {sorted(shapes)}; expected the same images and classes in every run")


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _pair(study: _Measured, a: str, b: str, num_pairs: int) -> Pair:
    runs = len(study.parts.get(a, ())), len(study.parts.get(b, ()))
    if min(runs) == 0:
        return Pair(a, b, *runs, None, reason=f"no run of {a if runs[0] == 0 else b} counts")
    one, other = study.spreads[a], study.spreads[b]
    value = float(one.per_image.mean() - other.per_image.mean())
    if not np.isfinite(value):
        return Pair(a, b, *runs, None, reason="no labelled pixel")
    if len(one.per_image) < 2:
        return Pair(a, b, *runs, value, reason="one image")
    images = study.difference(a, b, with_seeds=False)
    if images.variance[0] < _NOTHING and abs(value) < np.sqrt(_NOTHING):
        return _identical(a, b, runs)
    half = float(images.half_width()[0]) if images.variance[0] >= _NOTHING else None
    around = (None, None) if half is None else (value - half, value + half)
    alone = Pair(a, b, *runs, value, images_low=around[0], images_high=around[1])
    if min(runs) < 2:
        return replace(alone, reason="one seed")
    same = [name for name, each in ((a, one), (b, other)) if each.seed_var[0] < _NOTHING]
    if same:
        return replace(alone, reason=f"every seed of {' and '.join(same)} scored the same")
    found = study.difference(a, b)
    half = float(found.half_width()[0])
    needed = seeds_needed(found, runs, num_pairs, is_by_seed=study.is_by_seed)
    return replace(
        alone,
        low=value - half,
        high=value + half,
        p=float(found.p()[0]),
        is_by_seed=study.is_by_seed,
        seeds_needed=needed,
        needs_images=needed is None and _images_leave_open(found, num_pairs),
    )


def _identical(a: str, b: str, runs: tuple[int, int]) -> Pair:
    """Both heads scored the same in every image: the difference is 0 without any spread."""
    if min(runs) < 2:
        return Pair(a, b, *runs, 0.0, images_low=0.0, images_high=0.0, reason="one seed")
    return Pair(a, b, *runs, 0.0, 0.0, 0.0, 0.0, 0.0, p=1.0, reason="identical in every image")


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (Holm 1979) over those that are known; the others stay None."""
    order = sorted((value, i) for i, value in enumerate(p) if value is not None)
    corrected: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * value))
        corrected[i] = highest
    return corrected


def seeds_needed(found: Difference, runs: tuple[int, int], num_pairs: int, *, is_by_seed: bool = False) -> int | None:
    """How many seeds each head should have for a difference as large as the one found to show with POWER probability.

    found: one measure, of so many runs of either head, compared seed by seed or not. What must be passed is Holm's
    first and hardest step over num_pairs. None when up to MAX_SEEDS would not do, such as when the spread over the
    images is too large.
    """
    spread = float(found.seeds[0]) * 2 / (1 / runs[0] + 1 / runs[1])  # of a difference of one run each
    total = np.arange(max(3, min(runs) + 1), MAX_SEEDS + 1, dtype=np.float64)
    seeds, images = spread / total, np.full_like(total, float(found.images[0]))
    seeds_df = (1 if is_by_seed else 2) * (total - 1)
    df = satterthwaite([seeds, images], [seeds_df, np.full_like(total, float(found.images_df[0]))])
    enough = np.flatnonzero(_least_shown(seeds + images, df, num_pairs) <= abs(float(found.value[0])))
    return int(total[enough[0]]) if enough.size else None


def _least_shown(variance: Floats, df: Floats, num_pairs: int) -> Floats:
    """The least difference that shows with POWER probability at Holm's first step over num_pairs."""
    return np.asarray((stdtrit(df, 1 - (1 - LEVEL) / 2 / num_pairs) + stdtrit(df, POWER)) * np.sqrt(variance))


def _images_leave_open(found: Difference, num_pairs: int) -> bool:
    """Whether a difference of this size would not show even if the seeds left no doubt."""
    return bool(_least_shown(found.images, found.images_df, num_pairs)[0] > abs(float(found.value[0])))
