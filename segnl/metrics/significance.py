"""Is the difference between two heads more than chance of seeds and of images? Intervals, tests, seeds still needed.

What is estimated: by how much the data-set mIoU of one head is expected to exceed another's when both are trained with
new seeds and scored on new images. variance.py has how sure that is, docs/statistics.md explains the method. Scores and
differences are fractions, not points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from segnl.metrics.confusion import Counts, Floats
from segnl.metrics.variance import (
    LEVEL,
    Difference,
    class_contributions,
    contributions,
    difference_of,
    satterthwaite,
    spread_of,
)

POWER = 0.8
MAX_SEEDS = 200
_NOTHING = 1e-24
"""A variance below this is rounding: scores are of the order of 1."""


@dataclass(frozen=True)
class RunCounts:
    """One run's pixels of every image and class: intersection and union of truth and prediction, int64 `n k` each."""

    right: Counts
    union: Counts


@dataclass(frozen=True)
class Pair:
    """Head `a` against head `b`. None stands for what cannot be known, and `reason` says why.

    low, high: the 95 % interval for new seeds and new images.  images_low, images_high: for these networks on new
    images, which says nothing about the heads.  p: of no difference, p_holm after Holm's correction over the study's
    pairs.  seeds_needed: how many each head should have to settle an open pair; None also when no number up to
    MAX_SEEDS would do.  needs_images: no number of seeds at all would, for the images alone leave it open.
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
    _require_one_shape(heads)
    names = list(heads)
    parts = {name: _stack([contributions(run.right, run.union)[:, None] for run in heads[name]]) for name in names}
    num_pairs = len(names) * (len(names) - 1) // 2
    pairs = [_pair(parts, a, b, num_pairs) for i, b in enumerate(names) for a in names[i + 1 :]]
    corrected = holm([pair.p for pair in pairs])
    done = [replace(pair, p_holm=p) for pair, p in zip(pairs, corrected, strict=True)]
    return [replace(pair, seeds_needed=None, needs_images=False) if pair.is_separable else pair for pair in done]


def class_differences(heads: Mapping[str, Sequence[RunCounts]], a: str, b: str) -> list[ClassDifference]:
    """Every class's IoU of head `a` less that of `b`, with intervals; None where a run has no such class."""
    _require_one_shape(heads)
    if not heads[a] or not heads[b]:
        return []
    known = {name: runs for name, runs in heads.items() if runs}
    parts = [_stack([class_contributions(run.right, run.union) for run in runs]) for runs in known.values()]
    spreads, names = [spread_of(each) for each in parts], list(known)
    i, j = names.index(a), names.index(b)
    value = spreads[i].per_image.mean(axis=0) - spreads[j].per_image.mean(axis=0)
    is_about_heads = min(len(heads[a]), len(heads[b])) > 1
    half = np.full(value.shape, np.nan)
    if parts[0].shape[1] > 1:
        found = difference_of(spreads, i, j, with_seeds=is_about_heads)
        half = np.where(found.variance < _NOTHING, np.nan, found.half_width())
    return [
        ClassDifference(c, _known(value[c]), _known(value[c] - half[c]), _known(value[c] + half[c]), is_about_heads)
        for c in range(len(value))
    ]


def _stack(runs: Sequence[Floats]) -> Floats:
    return np.stack(list(runs)) if runs else np.zeros((0, 0, 1))


def _require_one_shape(heads: Mapping[str, Sequence[RunCounts]]) -> None:
    shapes = {array.shape for runs in heads.values() for run in runs for array in (run.right, run.union)}
    if len(shapes) > 1:
        raise ValueError(f"counts of shapes {sorted(shapes)}; expected the same images and classes in every run")


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _pair(parts: Mapping[str, Floats], a: str, b: str, num_pairs: int) -> Pair:
    runs = len(parts[a]), len(parts[b])
    if min(runs) == 0:
        return Pair(a, b, *runs, None, reason=f"no run of {a if runs[0] == 0 else b} counts")
    known = {name: spread_of(each) for name, each in parts.items() if len(each)}
    spreads, names = list(known.values()), list(known)
    i, j = names.index(a), names.index(b)
    value = float(spreads[i].per_image.mean() - spreads[j].per_image.mean())
    if not np.isfinite(value):
        return Pair(a, b, *runs, None, reason="no labelled pixel")
    if parts[a].shape[1] < 2:
        return Pair(a, b, *runs, value, reason="one image")
    images = difference_of(spreads, i, j, with_seeds=False)
    if images.variance[0] < _NOTHING and abs(value) < np.sqrt(_NOTHING):
        return _identical(a, b, runs)
    half = float(images.half_width()[0]) if images.variance[0] >= _NOTHING else None
    around = (None, None) if half is None else (value - half, value + half)
    alone = Pair(a, b, *runs, value, images_low=around[0], images_high=around[1])
    if min(runs) < 2:
        return replace(alone, reason="one seed")
    found = difference_of(spreads, i, j)
    same = [name for name, each in ((a, spreads[i]), (b, spreads[j])) if each.seed_var[0] < _NOTHING]
    if same:
        return replace(alone, reason=f"every seed of {' and '.join(same)} scored the same")
    half = float(found.half_width()[0])
    needed = seeds_needed(found, runs, num_pairs)
    tested = replace(alone, low=value - half, high=value + half, p=float(found.p()[0]), seeds_needed=needed)
    return replace(tested, needs_images=needed is None and _images_leave_open(found, num_pairs))


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


def seeds_needed(found: Difference, runs: tuple[int, int], num_pairs: int) -> int | None:
    """How many seeds each head should have for a difference as large as the one found to show with POWER probability.

    found: one measure, of so many runs of either head. What must be passed is Holm's first and hardest step over
    num_pairs. None when up to MAX_SEEDS would not do, such as when the spread over the images is too large.
    """
    spread = float(found.seeds[0]) * 2 / (1 / runs[0] + 1 / runs[1])  # of a difference of one run each
    total = np.arange(max(3, min(runs) + 1), MAX_SEEDS + 1, dtype=np.float64)
    seeds, images = spread / total, np.full_like(total, float(found.images[0]))
    df = satterthwaite([seeds, images], [2 * (total - 1), np.full_like(total, float(found.images_df[0]))])
    enough = np.flatnonzero(_least_shown(seeds + images, df, num_pairs) <= abs(float(found.value[0])))
    return int(total[enough[0]]) if enough.size else None


def _least_shown(variance: Floats, df: Floats, num_pairs: int) -> Floats:
    """The least difference that shows with POWER probability at Holm's first step over num_pairs."""
    return np.asarray((stdtrit(df, 1 - (1 - LEVEL) / 2 / num_pairs) + stdtrit(df, POWER)) * np.sqrt(variance))


def _images_leave_open(found: Difference, num_pairs: int) -> bool:
    """Whether a difference of this size would not show even if the seeds left no doubt."""
    return bool(_least_shown(found.images, found.images_df, num_pairs)[0] > abs(float(found.value[0])))
