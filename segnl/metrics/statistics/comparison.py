"""Comparison of heads from their runs' pixel counts: `compare_heads`, `class_differences`."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from segnl.core.arrays import Counts, Floats, Mask
from segnl.metrics.confusion import number_or_none, ratio
from segnl.metrics.statistics.contributions import class_contributions, group_sums, mean_over_classes
from segnl.metrics.statistics.planning import (
    MAX_SEEDS,
    Looks,
    adjusted_p,
    detectable,
    is_out_of_reach,
    nominal_alpha,
    seeds_needed,
)
from segnl.metrics.statistics.variance import (
    ALPHA,
    Estimate,
    paired_difference,
    seeds_agree,
    spread_of,
    unpaired_difference,
)

_ROUNDING = 1e-24
"""A variance below this is rounding: scores are of the order of 1."""


@dataclass(frozen=True)
class RunCounts:
    """Pixels of one run by image and class, int64 `n k` each: intersection and union of label and prediction.

    seed: of its training; runs of one seed start from the same weights and see the same batches, whatever the head.
    target: labelled pixels; heads are compared over the classes that have some. None where they are not known: then
    over the classes in label or prediction.

    Raises ValueError for other arrays, and unless 0 <= intersection <= target <= union.
    """

    intersection: Counts
    union: Counts
    seed: int | None = None
    target: Counts | None = None

    def __post_init__(self) -> None:
        target = self.intersection if self.target is None else self.target
        for counts in (self.intersection, self.union, target):
            if not isinstance(counts, np.ndarray) or counts.dtype != np.int64 or counts.ndim != 2:
                actual = f"{getattr(counts, 'dtype', type(counts).__name__)} of shape {np.shape(counts)}"
                raise ValueError(f"counts: {actual}; expected a NumPy array, int64 `n k` (images, classes)")
            if counts.shape != self.union.shape:
                raise ValueError(f"counts: shapes {counts.shape} and {self.union.shape}; expected the same of one run")
        if not ((self.intersection >= 0) & (self.intersection <= target) & (target <= self.union)).all():
            raise ValueError("counts that no mask can have; expected 0 <= intersection <= target <= union")


@dataclass(frozen=True)
class Comparison:
    """mIoU of head `a` minus that of head `b`. None stands for an unknown value, and `reason` says why.

    difference: over the classes of the ground truth.  by_score: the difference of the scores as `Confusion.miou` gives
    them, where a class that is only predicted counts 0.
    low, high: the 95 % interval for new seeds and new images (groups of images), or, where all images are of one group,
    for new seeds on these images.  images_low, images_high: for these networks on new images only, which says nothing
    about the heads.  p: p value of no difference; p_holm: after the corrections for looks (`planning`) and for pairs
    (Holm).  is_by_seed: whether runs are paired by seed.
    num_groups: number of groups; None where each image stands for itself.
    seeds_needed: numbers of seeds per head, from and to, that would settle an open pair; `to` is None beyond MAX_SEEDS.
    needs_images: whether the variance over images alone leaves the pair open, so that no number of seeds settles it.
    is_out_of_reach: whether the planned seeds cannot settle an open pair, whatever difference the interval holds.
    decisive_class: index of the class without which alone a separable pair is not separable.
    single_classes: indices of classes that are in one image (group): their chance is not in the interval.
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
    num_groups: int | None = None
    by_score: float | None = None
    seeds_needed: tuple[int, int | None] | None = None
    needs_images: bool = False
    is_out_of_reach: bool = False
    decisive_class: int | None = None
    single_classes: tuple[int, ...] = ()
    reason: str = ""

    @property
    def is_separable(self) -> bool:
        return self.p_holm is not None and self.p_holm < ALPHA


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


def compare_heads(
    heads: Mapping[str, Sequence[RunCounts]],
    *,
    groups: Sequence[Hashable] | None = None,
    against: str | None = None,
    looks: Looks | None = None,
) -> list[Comparison]:
    """Compares every head with every earlier one, or with one of them; heads: the valid runs by name.

    groups: of each image; images of one group, such as the frames of a drive, are not independent. None: all are.
    against: name of the control, if the others are compared with it alone: fewer pairs, a weaker correction.
    looks: planned, if the study is judged several times; intervals and p_holm allow for those so far.

    Raises ValueError when two runs do not hold counts of the same images, labels and classes, when `groups` are not one
    for each image, or when there is no head `against`.
    """
    if against is not None and against not in heads:
        raise ValueError(f"against: no head '{against}'; expected one of {', '.join(heads)}")
    study, names = _Study.of(heads, groups), list(heads)
    if against is None:
        pairs = [(a, b) for i, b in enumerate(names) for a in names[i + 1 :]]
    else:
        pairs = [(name, against) for name in names if name != against]
    compared = [_compare(study, a, b, len(pairs), looks) for a, b in pairs]
    corrected = holm([None if pair.p is None else adjusted_p(pair.p, looks) for pair in compared])
    compared = [replace(pair, p_holm=p) for pair, p in zip(compared, corrected, strict=True)]
    return [_settled(study, pair) if pair.is_separable else pair for pair in compared]


def class_differences(
    heads: Mapping[str, Sequence[RunCounts]], a: str, b: str, *, groups: Sequence[Hashable] | None = None
) -> list[ClassDifference]:
    """Compares every class's IoU of heads `a` and `b`; None where a run has no such class.

    A class that is in one image (group) has no interval: nothing shows how it would vary over others. One in m images
    has m - 1 degrees of freedom at most.
    """
    if not heads[a] or not heads[b]:
        return []
    study = _Study.of(heads, groups)
    of_a, of_b = study.by_class[a], study.by_class[b]
    value = of_a.mean(axis=(0, 1)) - of_b.mean(axis=(0, 1))
    is_about_heads = min(len(of_a), len(of_b)) > 1
    half = np.full(value.shape, np.nan)
    if study.num_units > 1 or (is_about_heads and study.num_groups == 1):
        estimate = study.difference(study.by_class, a, b, with_seeds=is_about_heads)
        most_df = np.where(study.num_holding < 0, np.inf, np.maximum(1, study.num_holding - 1))
        estimate = replace(estimate, most_df=most_df)
        half = np.where(estimate.variance < _ROUNDING, np.nan, estimate.half_width())
        if study.num_units > 1:
            half[list(study.single_classes)] = np.nan
    low, high = value - half, value + half
    return [
        ClassDifference(c, number_or_none(value[c]), number_or_none(low[c]), number_or_none(high[c]), is_about_heads)
        for c in range(len(value))
    ]


@dataclass(frozen=True)
class _Study:
    """Contributions of the heads that have runs, by name: `by_class` `s n k`; n counts groups where there are some.

    num_holding: in how many images (groups) the ground truth holds each class, `k`; -1 where it is not known.
    """

    by_class: dict[str, Floats]
    num_holding: Counts
    seeds: dict[str, tuple[int | None, ...]]
    num_groups: int | None

    @classmethod
    def of(cls, heads: Mapping[str, Sequence[RunCounts]], groups: Sequence[Hashable] | None) -> "_Study":
        heads = {name: sorted(own, key=lambda run: -1 if run.seed is None else run.seed) for name, own in heads.items()}
        runs = [run for own in heads.values() for run in own]
        counts = [counts for run in runs for counts in (run.intersection, run.union, run.target) if counts is not None]
        shapes = {own.shape for own in counts}
        if len(shapes) > 1:
            raise ValueError(f"counts of shapes {sorted(shapes)}; expected the same images and classes in every run")

        def units(counts: Counts) -> Counts:
            return counts if groups is None else group_sums(counts, groups)

        by_class = {
            name: np.stack([class_contributions(units(run.intersection), units(run.union)) for run in own])
            for name, own in heads.items()
            if own
        }
        labels = [run.target for run in runs if run.target is not None]
        if any(not np.array_equal(label, labels[0]) for label in labels):
            raise ValueError("target: differs between runs; score every run against the same labels")
        k = runs[0].union.shape[1] if runs else 0
        num_holding = (units(labels[0]) > 0).sum(axis=0) if labels else np.full(k, -1)
        seeds = {name: tuple(run.seed for run in own) for name, own in heads.items() if own}
        num_groups = None if groups is None else len(set(groups))
        return cls(by_class, num_holding, seeds, num_groups)

    @property
    def num_units(self) -> int:
        """Number of independent images or groups."""
        return len(next(iter(self.by_class.values()))[0])

    @property
    def is_compared(self) -> Mask:
        """The classes that the mIoU is over, `k`: those of the ground truth, if it is known."""
        return np.asarray(self.num_holding != 0)

    @property
    def single_classes(self) -> tuple[int, ...]:
        """The classes that the ground truth holds in one image (group) of several."""
        return () if self.num_units < 2 else tuple(int(c) for c in np.flatnonzero(self.num_holding == 1))

    @cached_property
    def miou(self) -> dict[str, Floats]:
        """Contributions to the mIoU over the compared classes, `s n 1`."""
        return {name: mean_over_classes(own[..., self.is_compared])[..., None] for name, own in self.by_class.items()}

    @cached_property
    def without_class(self) -> dict[str, Floats]:
        """Contributions to the mIoU over the compared classes but one, `s n k`."""
        without = {}
        for name, own in self.by_class.items():
            compared = own[..., self.is_compared]
            is_defined = np.isfinite(compared)
            sums = np.nansum(compared, axis=-1, keepdims=True) - np.nan_to_num(compared)
            without[name] = ratio(sums, is_defined.sum(axis=-1, keepdims=True) - is_defined)
        return without

    @cached_property
    def is_by_seed(self) -> bool:
        """Whether all heads of several runs were trained with the same seeds, and runs of one seed score alike."""
        several = [name for name in self.seeds if len(self.seeds[name]) > 1]
        seeds = {self.seeds[name] for name in several}
        if len(seeds) != 1 or None in (common := seeds.pop()) or len(set(common)) < len(common):
            return False
        return bool(seeds_agree([self.miou[name] for name in several])[0])

    def difference(self, contributions: Mapping[str, Floats], a: str, b: str, *, with_seeds: bool = True) -> Estimate:
        """contributions: of each head to any measures, `s n m`. The mIoU decides on pairing by seed."""
        if self.is_by_seed and with_seeds:
            several = {name: values for name, values in contributions.items() if len(values) > 1}
            names = list(several)
            return paired_difference(list(several.values()), names.index(a), names.index(b))
        names = list(contributions)
        spreads = [spread_of(values) for values in contributions.values()]
        return unpaired_difference(spreads, names.index(a), names.index(b), with_seeds=with_seeds)


def _compare(study: _Study, a: str, b: str, num_pairs: int, looks: Looks | None) -> Comparison:
    runs = len(study.seeds.get(a, ())), len(study.seeds.get(b, ()))
    if min(runs) == 0:
        return Comparison(a, b, *runs, None, reason=f"no run of {a if runs[0] == 0 else b} counts")
    of_a, of_b = spread_of(study.miou[a]), spread_of(study.miou[b])
    value = float(of_a.per_image.mean() - of_b.per_image.mean())
    if not np.isfinite(value):
        return Comparison(a, b, *runs, None, reason="no labelled pixel")
    scores = [mean_over_classes(study.by_class[name]).mean() for name in (a, b)]
    result = Comparison(
        a,
        b,
        *runs,
        value,
        num_groups=study.num_groups,
        by_score=float(scores[0] - scores[1]),
        single_classes=study.single_classes,
    )
    if study.num_units < 2 and study.num_groups is None:
        return replace(result, reason="one image")
    images = study.difference(study.miou, a, b, with_seeds=False)
    is_constant = images.variance[0] < _ROUNDING
    if is_constant and abs(value) < np.sqrt(_ROUNDING):
        if min(runs) < 2:
            return replace(result, difference=0.0, images_low=0.0, images_high=0.0, reason="one seed")
        zero = replace(result, difference=0.0, low=0.0, high=0.0, images_low=0.0, images_high=0.0)
        return replace(zero, p=1.0, reason="identical in every image")
    if not is_constant:
        half = float(images.half_width()[0])
        result = replace(result, images_low=value - half, images_high=value + half)
    if min(runs) < 2:
        return replace(result, reason="one seed")
    constant = [name for name, spread in ((a, of_a), (b, of_b)) if spread.seed_var[0] < _ROUNDING]
    if constant:
        return replace(result, reason=f"every seed of {' and '.join(constant)} scored the same")
    return _with_interval(result, study.difference(study.miou, a, b), study.is_by_seed, num_pairs, looks)


def _with_interval(
    pair: Comparison, estimate: Estimate, is_by_seed: bool, num_pairs: int, looks: Looks | None
) -> Comparison:
    value, runs = float(estimate.value[0]), (pair.seeds_a, pair.seeds_b)
    half = float(estimate.half_width(nominal_alpha(looks))[0])
    needed = seeds_needed(estimate, runs, num_pairs, is_by_seed=is_by_seed)
    without_seeds = detectable(estimate.images, estimate.images_df, num_pairs)[0]
    return replace(
        pair,
        low=value - half,
        high=value + half,
        p=float(estimate.p()[0]),
        is_by_seed=is_by_seed,
        seeds_needed=needed,
        is_out_of_reach=looks is not None
        and bool(is_out_of_reach(estimate, runs, looks.most, num_pairs, is_by_seed=is_by_seed)[0]),
        needs_images=needed in (None, (MAX_SEEDS, None)) and bool(without_seeds > abs(value)),
    )


def _settled(study: _Study, pair: Comparison) -> Comparison:
    """Returns a separable pair without advice on seeds, with the class that decides it alone, if there is one."""
    pair = replace(pair, seeds_needed=None, needs_images=False, is_out_of_reach=False)
    classes = np.flatnonzero(study.is_compared)
    if len(classes) < 3 or not pair.p or not pair.p_holm:
        return pair
    p = study.difference(study.without_class, pair.a, pair.b).p()
    flips = np.flatnonzero(p * (pair.p_holm / pair.p) >= ALPHA)
    return replace(pair, decisive_class=int(classes[flips[0]]) if len(flips) == 1 else None)


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Returns Holm's step-down correction (Holm 1979) of the p values that are known; the others stay None."""
    order = sorted((value, i) for i, value in enumerate(p) if value is not None)
    corrected: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * value))
        corrected[i] = highest
    return corrected
