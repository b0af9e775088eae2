"""Verdicts of a study in words. Differences are in points: hundredths of mIoU."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from segnl.metrics.significance import LEVEL, MAX_SEEDS, Comparison

if TYPE_CHECKING:
    from segnl.studies.results import HeadResult, StudyResults

ONE_SEED = "One seed per head: the scores hold for these networks and say nothing about the heads in general."
HOW_TO_READ = (
    "Differences are in points of mIoU, with the 95 % interval for new seeds and new images in brackets. A pair is "
    "separable if its p value is below 0.05 after Holm's correction over all pairs of the study; a pair that is not "
    "separable may still differ."
)
BY_SEED = (
    "In this study, runs of the same seed score alike, whatever the head (p < 0.01), so the heads are compared seed by "
    "seed."
)


def points(value: float) -> str:
    """Formats a difference as points, such as +0.31; never -0.00."""
    return f"{100 * value:+z.2f}"


def bracket(low: float | None, high: float | None) -> str:
    """Formats an interval as points, such as [-0.18, +0.82]; "" where there is none."""
    return "" if low is None or high is None else f"[{points(low)}, {points(high)}]"


def verdicts(results: "StudyResults") -> list[str]:
    """Returns the verdicts of a study, the main sentence first."""
    return [*head_verdicts(results.heads, results.pairs), *same_recipe_verdicts(results.study.same_recipes)]


def head_verdicts(heads: Sequence["HeadResult"], pairs: Sequence[Comparison]) -> list[str]:
    """Returns the verdicts on heads and pairs, the main sentence first. The first head is the control."""
    miou = {head.name: head.miou_mean for head in heads if head.miou_mean is not None}
    if not miou:
        return ["No run of this study counts; the reasons are below."]
    if any(pair.p is not None for pair in pairs):
        return separability_verdicts(pairs)
    seeds = [head.runs for head in heads if head.miou_mean is not None]
    if len(miou) < 2:
        return [ONE_SEED if seeds == [1] else f"{seeds[0]} seeds of one head: no other head to compare."]
    if min(seeds) == 1:
        return [ONE_SEED, _ranking(miou)]
    return ["No two heads of this study can be compared.", *(pair_verdict(pair, len(pairs)) for pair in pairs)]


def _ranking(miou: Mapping[str, float]) -> str:
    control, *_ = miou
    best, second, *_ = sorted(miou, key=lambda head: -miou[head])
    text = f"{best} has the highest mIoU, {100 * miou[best]:.1f} %"
    if best == control:
        text += f", {100 * (miou[best] - miou[second]):.1f} points above {second}; {best} is the control."
    else:
        text += f", {100 * (miou[best] - miou[control]):.1f} points above the control, {control}."
    return f"{text} Published repetitions of one recipe differ by 1 to 2 points: another seed may reverse the order."


def separability_verdicts(pairs: Sequence[Comparison]) -> list[str]:
    """Returns the study's result in a sentence, then each pair's verdict, then how to read them."""
    separable = [_ranked(pair) for pair in pairs if pair.is_separable]
    seeds = sorted({count for pair in pairs for count in (pair.seeds_a, pair.seeds_b)} - {0})
    result = f"{seeds[0]} seeds per head: " if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds per head: "
    if separable:
        losers = {winner: [loser for other, loser in separable if other == winner] for winner, _ in separable}
        winners = sorted(losers, key=lambda head: (-len(losers[head]), head))
        result += "; ".join(f"{head} is better than {_listed(losers[head])}" for head in winners)
        result += "; no other pair is separable." if len(separable) < len(pairs) else "."
    else:
        result += "no two heads are separable." if len(pairs) > 1 else "the two heads are not separable."
    by_seed = [BY_SEED] if any(pair.is_by_seed for pair in pairs) else []
    return [result, *(pair_verdict(pair, len(pairs)) for pair in pairs), " ".join([HOW_TO_READ, *by_seed])]


def pair_verdict(pair: Comparison, num_pairs: int) -> str:
    """Returns such as `rcca - aspp: +0.31 [-0.18, +0.82], 3 seeds: not separable`. num_pairs: of the study."""
    lead = f"{pair.a} - {pair.b}: "
    if pair.difference is None:
        return f"{lead}not comparable, {pair.reason}"
    lead += points(pair.difference)
    if pair.reason == "one image":
        return f"{lead}, one image: this says nothing about other images or about the heads"
    if pair.p is None:
        seeds = "one seed" if min(pair.seeds_a, pair.seeds_b) < 2 else f"{_seeds(pair)}, {pair.reason}"
        images = bracket(pair.images_low, pair.images_high)
        interval = f"; for these networks on new images: {images}" if images else ""
        return f"{lead}, {seeds}: holds for these networks and says nothing about the heads{interval}"
    lead += f" {bracket(pair.low, pair.high)}, {_seeds(pair)}: "
    if pair.is_separable:
        p_value = "p < 0.001" if (pair.p_holm or 0) < 0.001 else f"p = {pair.p_holm:.3f}"
        return f"{lead}{_ranked(pair)[0]} is better ({p_value})"
    if pair.reason:
        return f"{lead}not separable, {pair.reason}"
    is_separable_alone = pair.p < 1 - LEVEL and num_pairs > 1
    correction = f" after the correction for {num_pairs} pairs" if is_separable_alone else ""
    return f"{lead}not separable{correction}; {_remedy(pair)}"


def same_recipe_verdicts(groups: Sequence[Sequence[str]]) -> list[str]:
    """Returns a sentence for each group of heads that are one recipe under several names (an A/A study)."""
    return [
        f"{_listed(names)} are one recipe under {len(names)} names: every difference between them is chance. The "
        "correct answer is 'not separable'; about one study in twenty gets a wrong one."
        for names in groups
    ]


def _ranked(pair: Comparison) -> tuple[str, str]:
    """Returns the better head and the worse one."""
    return (pair.a, pair.b) if (pair.difference or 0) >= 0 else (pair.b, pair.a)


def _seeds(pair: Comparison) -> str:
    if pair.seeds_a != pair.seeds_b:
        return f"{pair.seeds_a} and {pair.seeds_b} seeds"
    return f"{pair.seeds_a} seed{'s' if pair.seeds_a > 1 else ''}{', seed by seed' if pair.is_by_seed else ''}"


def _remedy(pair: Comparison) -> str:
    if pair.needs_images:
        return "with these images, no number of seeds could show a difference of this size"
    if pair.seeds_needed is None:
        return f"showing a difference of this size would take more than {MAX_SEEDS} seeds per head"
    more = pair.seeds_needed - min(pair.seeds_a, pair.seeds_b)
    return f"showing a difference of this size would take about {pair.seeds_needed} seeds per head, {more} more"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
