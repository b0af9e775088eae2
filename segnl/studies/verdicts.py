"""What a study's numbers allow to be said, in words. Differences are given in points: hundredths of mIoU."""

from collections.abc import Sequence

from segnl.metrics.statistics.significance import MAX_SEEDS, Comparison
from segnl.metrics.statistics.variance import LEVEL

ONE_SEED = "One seed: this says something about these networks, nothing about the heads."
HOW_TO_READ = (
    "Differences are in points of mIoU; in brackets stands the 95 % interval for new seeds and new images. A pair is "
    "separable when its p value is below 0.05 after Holm's correction over all pairs of the study; one that is not may "
    "differ all the same."
)

BY_SEED = (
    "Runs of one seed score alike in this study, whatever the head (p < 0.01), so that heads are compared seed by seed."
)


def same_recipe_lines(groups: Sequence[Sequence[str]]) -> list[str]:
    """A sentence for each group of names that stand for one recipe (an A/A study)."""
    return [
        f"{_listed(names)} are one recipe under {len(names)} names: what differs between them is chance. "
        "'Not separable' is the right answer; about one pair in twenty gets the wrong one."
        for names in groups
    ]


def points(value: float) -> str:
    """Such as +0.31; never -0.00."""
    return f"{100 * value:+z.2f}"


def bracket(low: float | None, high: float | None) -> str:
    """Such as [-0.18, +0.82]; nothing where there is no interval."""
    return "" if low is None or high is None else f"[{points(low)}, {points(high)}]"


def better(pair: Comparison) -> tuple[str, str]:
    """The pair's heads, the one with the higher score first."""
    return (pair.a, pair.b) if (pair.difference or 0) >= 0 else (pair.b, pair.a)


def pair_verdict(pair: Comparison, num_pairs: int) -> str:
    """Such as `rcca - aspp: +0.31 [-0.18, +0.82], 3 seeds: not separable`; num_pairs: of the study."""
    said = f"{pair.a} - {pair.b}: "
    if pair.difference is None:
        return f"{said}not comparable, {pair.reason}"
    said += points(pair.difference)
    if pair.reason == "one image":
        return f"{said}, one image: this says nothing about other images, nor about the heads"
    if pair.p is None:
        return f"{said}, {_about_networks(pair)}"
    said += f" {bracket(pair.low, pair.high)}, {_seeds(pair)}: "
    if pair.is_separable:
        return f"{said}{better(pair)[0]} is better ({_p(pair.p_holm)})"
    if pair.reason:
        return f"{said}not separable, {pair.reason}"
    is_clear_alone = pair.p < 1 - LEVEL and num_pairs > 1
    return f"{said}not separable{f' when all {num_pairs} pairs are allowed for' if is_clear_alone else ''}{_more(pair)}"


def _about_networks(pair: Comparison) -> str:
    lead = "one seed" if min(pair.seeds_a, pair.seeds_b) < 2 else f"{_seeds(pair)}, {pair.reason}"
    images = bracket(pair.images_low, pair.images_high)
    on_images = f"; these networks on new images: {images}" if images else ""
    return f"{lead}: this says something about these networks, nothing about the heads{on_images}"


def _seeds(pair: Comparison) -> str:
    if pair.seeds_a == pair.seeds_b:
        return f"{pair.seeds_a} seed{'s' if pair.seeds_a > 1 else ''}{', seed by seed' if pair.is_by_seed else ''}"
    return f"{pair.seeds_a} and {pair.seeds_b} seeds"


def _more(pair: Comparison) -> str:
    if pair.needs_images:
        return "; on these images no number of seeds would settle a difference of this size"
    if pair.seeds_needed is None:
        return f"; a difference of this size would take more than {MAX_SEEDS} seeds a head"
    more = pair.seeds_needed - min(pair.seeds_a, pair.seeds_b)
    return f"; a difference of this size would take about {pair.seeds_needed} seeds a head, {more} more"


def _p(value: float | None) -> str:
    return "p unknown" if value is None else "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def study_verdicts(pairs: Sequence[Comparison]) -> list[str]:
    """The study's result in a sentence, then every pair's verdict, then how to read them; of several seeds a head."""
    separable = [better(pair) for pair in pairs if pair.is_separable]
    seeds = sorted({count for pair in pairs for count in (pair.seeds_a, pair.seeds_b)} - {0})
    lead = f"{seeds[0]} seeds a head: " if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds a head: "
    if not separable:
        lead += "no two heads are separable." if len(pairs) > 1 else "the two heads are not separable."
    else:
        winners = sorted({one for one, _ in separable}, key=lambda name: -sum(name == one for one, _ in separable))
        each = [
            f"{name} is better than {_listed([lost for won, lost in separable if won == name])}" for name in winners
        ]
        is_rest = len(separable) < len(pairs)
        lead += "; ".join(each) + ("; no other pair is separable." if is_rest else ".")
    by_seed = [BY_SEED] if any(pair.is_by_seed for pair in pairs) else []
    return [lead, *(pair_verdict(pair, len(pairs)) for pair in pairs), " ".join([HOW_TO_READ, *by_seed])]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
