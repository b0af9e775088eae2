"""Judges many simulated studies at once, as compare_heads judges one."""

from dataclasses import replace

import numpy as np
from attack_populations import Drawn, Population
from calibration_rivals import linearised_contributions

from segnl.core.arrays import Floats
from segnl.metrics.statistics.contributions import class_contributions
from segnl.metrics.statistics.variance import (
    MIN_PAIRED_HEADS,
    paired_difference,
    seeds_agree,
    spread_of,
    unpaired_difference,
)


def contributions(drawn: Drawn, population: Population, *, linearised: bool = False, in_groups: bool = True) -> Floats:
    """Returns contributions to each class, `studies heads seeds n k`."""
    counts = [drawn.intersection, drawn.union]
    if population.cluster > 1 and in_groups:
        shape = (*drawn.union.shape[:3], -1, population.cluster, population.classes)
        counts = [values.reshape(shape).sum(axis=4) for values in counts]
    return (linearised_contributions if linearised else class_contributions)(*counts)


def over_classes(values: Floats, drawn: Drawn, *, of_truth: bool = True) -> Floats:
    """Returns the mean over the classes of the ground truth, `... n k` -> `... n`, or over those that a run has."""
    is_counted = np.isfinite(values[..., :1, :])
    if of_truth:
        is_counted = is_counted & (drawn.target.sum(axis=1) > 0)[:, None, None, None, :]
    return np.asarray(np.where(is_counted, values, 0).sum(axis=-1) / is_counted.sum(axis=-1))


def pairs_of(population: Population) -> list[tuple[int, int]]:
    heads = range(len(population.shift))
    return [(a, b) for b in heads for a in heads if a > b]


def judge(
    z: Floats, pairs: list[tuple[int, int]], *, with_pretest: bool = False, most_df: Floats | float = np.inf
) -> dict[str, Floats]:
    """Returns each pair's value, half width and p, `pairs studies`, as compare_heads does; the studies are measures.

    z: contributions to the mIoU, `studies heads seeds n`.  with_pretest: pairs by seed whatever the number of heads.
    most_df: bound of the degrees of freedom, as class_differences has it.
    """
    of_heads = [np.moveaxis(z[:, head], 0, 2) for head in range(z.shape[1])]
    spreads = [spread_of(own) for own in of_heads]
    unpaired = [unpaired_difference(spreads, a, b) for a, b in pairs]
    unpaired = [replace(own, most_df=most_df) for own in unpaired]
    paired = [paired_difference(of_heads, a, b) for a, b in pairs]
    by_seed = seeds_agree(of_heads, least_heads=2 if with_pretest else MIN_PAIRED_HEADS)

    def chosen(name: str) -> Floats:
        values = [np.stack([getattr(estimate, name)() for estimate in estimates]) for estimates in (paired, unpaired)]
        return np.where(by_seed, *values)

    value = np.stack([estimate.value for estimate in unpaired])
    return {"value": value, "half": chosen("half_width"), "p": chosen("p"), "by_seed": by_seed}
