"""Verdicts of a study in words. Differences are in points: hundredths of mIoU."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from segnl.metrics.statistics.comparison import Comparison
from segnl.metrics.statistics.planning import MAX_SEEDS, Looks
from segnl.metrics.statistics.variance import ALPHA

if TYPE_CHECKING:
    from segnl.studies.results import HeadResult, StudyResults

ONE_SEED = "One seed per head: the scores hold for these networks and say nothing about the heads in general."
HOW_TO_READ = (
    "Differences are in points of mIoU, with the 95 % interval for new seeds {images} in brackets. A pair is "
    "separable if its p value is below 0.05{correction}; a pair that is not separable may still differ."
)
ONE_GROUP = (
    "All images are of one group (a single drive or scene): intervals and verdicts are for new seeds on these frames. "
    "They say nothing about other images."
)
OTHER_RULE = 0.0005
"""Of mIoU: a difference by the score's own rule is shown where it is this far from that over the ground truth."""
BY_SEED = (
    "In this study, runs of the same seed score alike, whatever the head (p < 0.01), so the heads are compared seed by "
    "seed."
)


def points(value: float) -> str:
    """Formats a difference as points, such as +0.31; never -0.00."""
    return f"{100 * value:+z.2f}"


def bracket(low: float | None, high: float | None) -> str:
    """Formats an interval as points, such as [-0.18, +0.82]; "" where there is none."""
    # -0.00: a little below 0, which the interval excludes
    return "" if low is None or high is None else f"[{100 * low + 0.0:+.2f}, {100 * high + 0.0:+.2f}]"


def verdicts(results: "StudyResults") -> list[str]:
    """Returns the verdicts of a study, the main sentence first."""
    main, *others = head_verdicts(results.heads, results.pairs, results.class_names)
    looks = look_verdicts(results.study.looks, results.unplanned_looks)
    fallen = [fallen_verdict(name, fall) for name, fall in results.fallen.items()]
    num_runs = len(results.study.runs) + len(results.study.searched_runs)
    changed = changed_data_verdicts(results.with_changed_data, num_runs)
    return [main, *changed, *looks, *others, *fallen, *same_recipe_verdicts(results.study.same_recipes)]


def changed_data_verdicts(names: Sequence[str], num_runs: int) -> list[str]:
    """Returns a sentence on runs whose training data have changed since; none without such runs."""
    if not names:
        return []
    which = (
        f"all {num_runs} runs" if len(names) == num_runs else f"{len(names)} of {num_runs} runs ({listed(names[:6])})"
    )
    return [
        f"Training images, labels or classes have changed since {which} trained on them. These scores are of the "
        "earlier data; to train on the present ones, move the study's folder away and start again."
    ]


def look_verdicts(looks: Looks | None, num_unplanned: int) -> list[str]:
    """Returns a sentence on how often the study was judged; none for a single look."""
    if num_unplanned:
        times = "once" if num_unplanned == 1 else f"{num_unplanned} times"
        return [
            f"This study was judged {times} before, with other seeds. Intervals and p values do not allow for that, so "
            "the verdicts below do not count as tests. A stop rule plans several looks: seeds: {at_least: 3, "
            "at_most: 10, until: settled}."
        ]
    if looks is None:
        return []
    return [
        f"Stop rule: judged with {listed([str(n) for n in looks.so_far])} seeds per head, at most {looks.most}. "
        "Intervals and p values allow for these looks."
    ]


def fallen_verdict(name: str, fall: float) -> str:
    """Returns a sentence on a run that scored far below its siblings."""
    return (
        f"{name} scored {100 * fall:.1f} points below the other seeds of its head, more than chance explains: look at "
        "its curves. How often such a run occurs, a few seeds cannot show, and no interval here contains it."
    )


def head_verdicts(
    heads: Sequence["HeadResult"], pairs: Sequence[Comparison], class_names: Sequence[str] = ()
) -> list[str]:
    """Returns the verdicts on heads and pairs, the main sentence first. The first head is the control."""
    miou = {head.name: head.miou_mean for head in heads if head.miou_mean is not None}
    if not miou:
        return ["No run of this study counts; the reasons are below."]
    if any(pair.p is not None for pair in pairs):
        return separability_verdicts(pairs, class_names)
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


def separability_verdicts(pairs: Sequence[Comparison], class_names: Sequence[str] = ()) -> list[str]:
    """Returns the study's result in a sentence, then each pair's verdict, then how to read them."""
    separable = [pair for pair in pairs if pair.is_separable]
    seeds = sorted({count for pair in pairs for count in (pair.seeds_a, pair.seeds_b)} - {0})
    result = f"{seeds[0]} seeds per head" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds per head"
    result += ", on these frames: " if pairs[0].num_groups == 1 else ": "
    if separable:
        result += "; ".join(_grouped(separable))
        pair_name = "tested pair" if _is_against_control(pairs) else "pair"
        result += f"; no other {pair_name} is separable." if len(separable) < len(pairs) else "."
    else:
        result += "no two heads are separable." if len(pairs) > 1 else "the two heads are not separable."
    return [result, *(pair_verdict(pair, len(pairs), class_names) for pair in pairs), _how_to_read(pairs, class_names)]


def _grouped(pairs: Sequence[Comparison]) -> list[str]:
    """Returns few sentences about separable pairs, such as `rcca (+2.00) and psp (+1.20) are better than fcn`.

    The head that is better than most others, or worse, comes first, with its pairs by their difference.
    """
    remaining = sorted(pairs, key=lambda pair: -abs(pair.difference or 0))
    sentences = []
    while remaining:
        groups: dict[tuple[int, str], list[Comparison]] = {}
        for pair in remaining:
            for place, head in enumerate(_ranked(pair)):
                groups.setdefault((place, head), []).append(pair)
        (place, head), group = min(groups.items(), key=lambda item: (-len(item[1]), item[0]))
        others = listed([f"{_ranked(pair)[1 - place]} ({points(abs(pair.difference or 0))})" for pair in group])
        verb = "are" if len(group) > 1 else "is"
        sentences.append(f"{others} {verb} better than {head}" if place else f"{head} is better than {others}")
        remaining = [pair for pair in remaining if pair not in group]
    return sentences


def _is_against_control(pairs: Sequence[Comparison]) -> bool:
    """Tells whether heads were compared with one of them alone."""
    heads = {name for pair in pairs for name in (pair.a, pair.b)}
    return len({pair.b for pair in pairs}) == 1 and len(pairs) < len(heads) * (len(heads) - 1) // 2


def image_scope(num_groups: int | None) -> str:
    """Returns the images that an interval for new seeds is about, in words that follow `new seeds`."""
    return {None: "and new images", 1: "on these frames"}.get(num_groups, "and new groups of images")


def _how_to_read(pairs: Sequence[Comparison], class_names: Sequence[str]) -> str:
    num_groups, single = pairs[0].num_groups, pairs[0].single_classes
    correction = f" after Holm's correction over the {len(pairs)} pairs of the study" if len(pairs) > 1 else ""
    sentences = [HOW_TO_READ.format(images=image_scope(num_groups), correction=correction)]
    if _is_against_control(pairs):
        sentences.append(f"Heads are compared with {pairs[0].b} alone, not with each other.")
    if num_groups == 1:
        sentences.append(ONE_GROUP)
    elif num_groups is not None:
        sentences.append(f"The images are of {num_groups} groups (drives or scenes), whose images resemble each other.")
    if single and num_groups != 1:
        unit = "image" if num_groups is None else "group of images"
        names = listed([_class_name(c, class_names) for c in single])
        sentences.append(f"In one {unit} alone: {names}; how such a class varies over images is not in the intervals.")
    if any(pair.is_by_seed for pair in pairs):
        sentences.append(BY_SEED)
    return " ".join(sentences)


def pair_verdict(pair: Comparison, num_pairs: int, class_names: Sequence[str] = ()) -> str:
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
        return f"{lead}{better_text(pair, class_names)}"
    if pair.reason:
        return f"{lead}not separable, {pair.reason}"
    is_separable_alone = pair.p < ALPHA and num_pairs > 1
    correction = f" after the correction for {num_pairs} pairs" if is_separable_alone else ""
    return f"{lead}not separable{correction}; {_remedy(pair)}{by_score_text(pair)}"


def better_text(pair: Comparison, class_names: Sequence[str]) -> str:
    """Returns such as `rcca is better (p = 0.012)` about a separable pair."""
    p_value = "p < 0.001" if (pair.p_holm or 0) < 0.001 else f"p = {pair.p_holm:.3f}"
    decisive = ""
    if pair.decisive_class is not None:
        decisive = f"; without the class {_class_name(pair.decisive_class, class_names)} it is not"
    return f"{_ranked(pair)[0]} is better ({p_value}){decisive}{by_score_text(pair)}"


def by_score_text(pair: Comparison) -> str:
    """Returns the difference by the score's own rule where classes without ground truth move it; else ""."""
    if pair.by_score is None or pair.difference is None or abs(pair.by_score - pair.difference) < OTHER_RULE:
        return ""
    return f"; {points(pair.by_score)} if the mean also counts classes that are predicted but in no label"


def _class_name(index: int, names: Sequence[str]) -> str:
    return names[index] if index < len(names) else str(index)


def same_recipe_verdicts(groups: Sequence[Sequence[str]]) -> list[str]:
    """Returns a sentence for each group of heads that are one recipe under several names (an A/A study)."""
    return [
        f"{listed(names)} are one recipe under {len(names)} names: every difference between them is chance. The "
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
    if pair.is_out_of_reach:
        return "the planned seeds would hardly settle it"
    if pair.needs_images:
        return "with these images, no number of seeds could show a difference of this size"
    if pair.seeds_needed is None:
        return "the difference is within one standard error of 0, so no number of seeds can be planned from it"
    low, high = pair.seeds_needed
    if low == MAX_SEEDS:
        return f"showing a difference of this size would take more than {MAX_SEEDS} seeds per head"
    number = f"about {low}" if high == low else f"{low} to {high or f'more than {MAX_SEEDS}'}"
    return f"showing a difference of this size would take {number} seeds per head"


def listed(names: Sequence[str]) -> str:
    """Returns such as `fcn, aspp and rcca`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
