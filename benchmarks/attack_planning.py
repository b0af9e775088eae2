"""Simulations of what concerns several looks, many heads and the hint on seeds; part of attack.py."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from attack_judge import contributions, judge, over_classes, pairs_of
from attack_populations import Population, draw
from calibration_rivals import bartlett_p, pooled_difference
from scipy.special import nctdtr, stdtrit

from segnl.core.arrays import Floats, Mask
from segnl.metrics.statistics.comparison import holm
from segnl.metrics.statistics.planning import Looks, adjusted_p, is_out_of_reach, seeds_needed
from segnl.metrics.statistics.references import fallen_runs
from segnl.metrics.statistics.variance import ALPHA, Estimate, spread_of, unpaired_difference

SEED = 20261129
LOOKS = tuple(range(3, 11))
HEADS = 13
FALL, FALL_CHANCE, FALL_SD = 0.05, 0.1, 0.005
"""Of mIoU: five points in one run of ten, where runs vary by half a point."""
GATE = 0.1
"""Level of Bartlett's test below which variances are not pooled."""


def look_lines(studies: int) -> Iterator[dict[str, Any]]:
    """Returns how often rules with one or several looks call heads different, and how many seeds they take.

    Heads are identical, or the last one is better by about 1.7 standard deviations of a run.
    """
    for heads, gain in itertools.product((2, 4), (0.0, 0.15)):
        population = Population(
            images=40, common=4, seed_sd=0.12, image_sd=0.1, rest_sd=0.1, shift=(*(heads - 1) * (0.0,), gain)
        )
        rng = np.random.default_rng([SEED, heads, round(100 * gain)])
        pairs = pairs_of(population)
        drawn = draw(rng, population, studies=studies, seeds=LOOKS[-1])
        z = over_classes(contributions(drawn, population), drawn)
        of_interest = np.array([gain == 0 or a == heads - 1 for a, b in pairs])
        stopped = {"plain": np.zeros(studies, bool), "stop rule": np.zeros(studies, bool)}
        found = {rule: np.zeros(studies, bool) for rule in stopped}
        seeds = {rule: np.zeros(studies) for rule in stopped}
        for num_seeds in LOOKS:
            judged = judge(z[:, :, :num_seeds], pairs)
            planned = Looks(LOOKS[: LOOKS.index(num_seeds) + 1], LOOKS[-1])
            for rule, looks in (("plain", None), ("stop rule", planned)):
                p = np.array([[adjusted_p(float(x), looks) for x in row] for row in judged["p"]])
                is_separable = np.array([holm(list(own)) for own in p.T], np.float64).T < ALPHA  # pairs studies
                is_running = ~stopped[rule]
                found[rule] |= is_running & is_separable[of_interest].any(axis=0)
                seeds[rule] += np.where(is_running, num_seeds - seeds[rule], 0)
                is_settled = is_separable | _hopeless(z[:, :, :num_seeds], pairs, looks)
                stopped[rule] |= is_settled.all(axis=0)
            if num_seeds in (LOOKS[0], LOOKS[-1]):
                once = np.array([holm(list(own)) for own in judged["p"].T], np.float64).T[of_interest] < ALPHA
                yield _look_line(heads, gain, f"{num_seeds} seeds, one look", once.any(axis=0), np.array([num_seeds]))
        for rule in stopped:
            yield _look_line(heads, gain, rule, found[rule], seeds[rule])


def _hopeless(z: Floats, pairs: list[tuple[int, int]], looks: Looks | None) -> Mask:
    """Tells where even the last look could not settle a pair, `pairs studies`; nowhere without a stop rule."""
    if looks is None:
        return np.zeros((len(pairs), len(z)), bool)
    spreads = [spread_of(np.moveaxis(z[:, head], 0, 2)) for head in range(z.shape[1])]
    hopeless = []
    for a, b in pairs:
        estimate = unpaired_difference(spreads, a, b)
        runs = looks.so_far[-1], looks.so_far[-1]
        hopeless.append(is_out_of_reach(estimate, runs, looks.most, len(pairs), is_by_seed=False))
    return np.stack(hopeless)


def _look_line(heads: int, gain: float, rule: str, found: Mask, seeds: Floats) -> dict[str, Any]:
    return {"heads": heads, "gain": gain, "rule": rule, "found": float(found.mean()), "seeds": float(seeds.mean())}


def power_lines(studies: int) -> Iterator[dict[str, Any]]:
    """Returns, for 13 heads, how often a head 5 standard deviations of a run better is found, by way of comparing.

    Scores alone, normal; the first head is the control, the last the better one, the second varies `spread` times as
    much as the others. false: of the 11 equal heads any is called different from the control.
    """
    for seeds, spread in itertools.product((3, 5), (1.0, 3.0)):
        rng = np.random.default_rng([SEED, 7, seeds, round(spread)])
        sd = np.where(np.arange(HEADS) == 1, spread, 1.0)[:, None, None]
        shift = np.where(np.arange(HEADS) == HEADS - 1, 5.0, 0.0)[:, None, None]
        scores = shift + sd * rng.standard_normal((HEADS, seeds, studies))
        spreads = [spread_of(own[:, None]) for own in scores]
        own = {(a, b): unpaired_difference(spreads, a, b) for b in range(HEADS) for a in range(b + 1, HEADS)}
        control = [pair for pair in own if pair[1] == 0]
        one = {pair: pooled_difference(spreads, *pair) for pair in control}
        is_pooled = bartlett_p(spreads) > GATE
        ways = {
            "all 78 pairs": {pair: estimate.p() for pair, estimate in own.items()},
            "against the control": {pair: own[pair].p() for pair in control},
            "against the control, pooled variance": {pair: one[pair].p() for pair in control},
            "against the control, pooled where Bartlett's test allows": {
                pair: np.where(is_pooled, one[pair].p(), own[pair].p()) for pair in control
            },
        }
        for way, p in ways.items():
            corrected = np.array([holm(list(of_study)) for of_study in np.stack(list(p.values())).T], np.float64).T
            at = list(p).index((HEADS - 1, 0))
            equal = [i for i, (a, b) in enumerate(p) if b == 0 and a != HEADS - 1]
            yield {
                "seeds": seeds,
                "spread": spread,
                "way": way,
                "found": float((corrected[at] < ALPHA).mean()),
                "false": float((corrected[equal] < ALPHA).any(axis=0).mean()),
                "false_of_unequal": float((p[1, 0] < ALPHA).mean()),
                "pooled": float(is_pooled.mean()) if "Bartlett" in way else None,
            }


def hint_lines(studies: int) -> Iterator[dict[str, Any]]:
    """Returns the power that the numbers of seeds in the hint deliver: two heads, scores alone, normal.

    Delivered is the probability that a true difference as large as the estimated one is found, with the true spread.
    """
    for seeds, difference in itertools.product((3, 5), (0.0, 1.0)):
        rng = np.random.default_rng([SEED, 8, seeds, round(difference)])
        scores = rng.standard_normal((2, seeds, studies)) + np.array([0.0, difference])[:, None, None]
        of_all = unpaired_difference([spread_of(own[:, None]) for own in scores], 1, 0)
        is_open = of_all.p() >= ALPHA
        powers, num_hints = [], 0
        for i in np.flatnonzero(is_open):
            estimate = Estimate(
                *(np.array([values[i]]) for values in (of_all.value, of_all.seeds, of_all.seeds_df)),
                np.zeros(1),
                np.ones(1),
            )
            hint = seeds_needed(estimate, (seeds, seeds), 1)
            num_hints += hint is not None
            if hint is not None and hint[1] is not None:
                powers.append([_power(n, abs(float(estimate.value[0]))) for n in hint])
        low, high = np.array(powers).T
        yield {
            "seeds": seeds,
            "difference": difference,
            "hints": num_hints / int(is_open.sum()),
            "power_low": float(low.mean()),
            "power_high": float(high.mean()),
            "enough_low": float((low >= 0.8).mean()),
            "enough_high": float((high >= 0.8).mean()),
        }


def diverged_lines(studies: int) -> Iterator[dict[str, Any]]:
    """Returns what intervals and `fallen_runs` see of a head that diverges in one seed of ten.

    Two heads, scores alone, normal with FALL_SD; a run of the second falls by FALL with probability FALL_CHANCE, so the
    true difference of the means is FALL * FALL_CHANCE. occurs: a run of the study has fallen. pointed_out: of those
    studies, every such run is listed; some: at least one is; wrongly: of the other studies, a run is listed. covers:
    the interval covers the true difference, over all studies and over those in which no run has fallen.
    """
    for seeds in (2, 3, 5, 10, 20):
        rng = np.random.default_rng([SEED, 9, seeds])
        scores = FALL_SD * rng.standard_normal((2, seeds, studies))
        has_fallen = rng.random((seeds, studies)) < FALL_CHANCE
        scores[1] -= FALL * has_fallen
        estimate = unpaired_difference([spread_of(own[:, None]) for own in scores], 1, 0)
        covers = np.abs(estimate.value + FALL * FALL_CHANCE) <= estimate.half_width()
        listed = [fallen_runs({"a": list(scores[0, :, i]), "b": list(scores[1, :, i])}) for i in range(studies)]
        expected = [{("b", int(run)) for run in np.flatnonzero(has_fallen[:, i])} for i in range(studies)]
        occurs = has_fallen.any(axis=0)
        is_listed = np.array([own <= runs.keys() for own, runs in zip(expected, listed, strict=True)])
        some = np.array([bool(own & runs.keys()) for own, runs in zip(expected, listed, strict=True)])
        yield {
            "seeds": seeds,
            "occurs": float(occurs.mean()),
            "pointed_out": float(is_listed[occurs].mean()),
            "some": float(some[occurs].mean()),
            "wrongly": float(np.array([bool(runs) for runs in listed])[~occurs].mean()),
            "covers": float(covers.mean()),
            "covers_without": float(covers[~occurs].mean()),
        }


def _power(num_seeds: float, difference: float) -> float:
    df = 2 * (num_seeds - 1)
    return float(1 - nctdtr(df, difference / (2 / num_seeds) ** 0.5, stdtrit(df, 1 - ALPHA / 2)))
