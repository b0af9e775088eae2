"""Words for a comparison of results that exist already. Differences are in points: hundredths of mIoU. No torch."""

import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import asdict

from segnl.core.config import JSONDict
from segnl.data.mask_files import listed
from segnl.metrics.confusion import number_or_none
from segnl.metrics.statistics.comparison import Comparison
from segnl.studies.compare_scored import Result, ScoredComparison
from segnl.studies.conditions import Condition, State
from segnl.studies.verdicts import better_text, bracket, by_score_text, points

ONE_RESULT = (
    "One result {which}: this is a verdict about these masks, not about the methods behind them. Another training of "
    "the same model often moves mIoU by 1 to 2 points. With several results of every model (NAME=FILE,FILE), the "
    "interval covers new trainings too."
)
SEVERAL_RESULTS = (
    "The interval in brackets (95 %) covers new trainings{images}. A pair is separable if its p value is below "
    "0.05, corrected for the number of pairs (Holm)."
)
UNCORRECTED = "The {count} intervals are not corrected for their number: about one in twenty misses by chance."
INDEPENDENT = (
    "Images are taken as independent. Frames of one video or tiles of one picture are not; then the true intervals are "
    "wider: name such groups with --group, such as '[^_]+' for the text before the first _."
)
ONE_GROUP = "all images are of one group (a single drive or scene), so this says nothing about other images"
MAX_PAIRS = 3
GROUPS = (
    "The images are of {count} groups (drives or scenes), whose images resemble each other; each counts as one image."
)
FEW_GROUPS = 10
CONDITIONS = "What was equal between the models, as far as it is known:"


def scored_text(comparison: ScoredComparison, *, width: int) -> str:
    """Returns scores, verdicts and conditions for a terminal of `width` characters."""
    lines = [*_score_lines(comparison), ""]
    lines += [textwrap.fill(f"warning: {own}", width, subsequent_indent="  ") for own in scored_warnings(comparison)]
    sentences = [*scored_verdicts(comparison), *_class_sentences(comparison)]
    lines += [textwrap.fill(sentence, width, subsequent_indent="  ") for sentence in sentences]
    lines += ["", CONDITIONS]
    for state, detail in condition_lines(comparison.conditions):
        lead = f"  {state:<9}  "
        lines += [textwrap.fill(detail, width, initial_indent=lead, subsequent_indent=" " * len(lead))]
    return "\n".join(lines)


def scored_warnings(comparison: ScoredComparison) -> list[str]:
    """Returns the warnings of `segnl score` about the masks, each with the models that it holds for."""
    by_sentence: dict[str, dict[str, None]] = {}
    for name, results in comparison.models.items():
        for sentence in (sentence for result in results for sentence in result.counts.warnings):
            by_sentence.setdefault(sentence, {})[name] = None
    return [f"{', '.join(names)}: {sentence}" for sentence, names in by_sentence.items()]


def condition_lines(conditions: Sequence[Condition]) -> list[tuple[State, str]]:
    """Returns the conditions in few lines: the equal ones together, and the unknown ones of one reason together."""
    equal = ", ".join(condition.aspect for condition in conditions if condition.state == "equal")
    lines: list[tuple[State, str]] = [("equal", equal)]
    lines += [("differs", f"{own.aspect} ({own.detail})") for own in conditions if own.state == "differs"]
    unknown: dict[str, list[str]] = {}
    for condition in conditions:
        if condition.state == "not known":
            unknown.setdefault(condition.detail, []).append(condition.aspect)
    if [*map(len, unknown.values())] == [len(conditions) - 1]:
        unknown = {reason: ["everything about training and inference"] for reason in unknown}
    return [*lines, *(("not known", f"{', '.join(aspects)} ({reason})") for reason, aspects in unknown.items())]


def scored_dict(comparison: ScoredComparison) -> JSONDict:
    """Returns the content of --json: fractions, null for what is unknown."""
    keys = ("difference", "low", "high", "is_about_heads")
    class_names = comparison.any_counts.class_names
    pairs = []
    for pair in comparison.pairs:
        classes = comparison.class_differences(pair)
        pairs.append(
            asdict(pair)
            | {"separable": None if pair.p is None else pair.is_separable, "images_separable": _images_separable(pair)}
            | {"verdict": pair_sentence(pair, class_names)}
            | {"per_class": {name: {key: getattr(own, key) for key in keys} for name, own in classes.items()}}
        )
    return {
        "num_images": len(comparison.any_counts.sample_ids),
        "heads": {name: _model_dict(results) for name, results in comparison.models.items()},
        "pairs": pairs,
        "verdicts": scored_verdicts(comparison),
        "warnings": scored_warnings(comparison),
        "conditions": [asdict(condition) for condition in comparison.conditions],
        "complete": True,
    }


def _model_dict(results: Sequence[Result]) -> JSONDict:
    miou = [result.miou for result in results]
    return {
        "miou_mean": number_or_none(statistics.fmean(miou)),
        "miou_sd": number_or_none(statistics.stdev(miou)) if len(miou) > 1 else None,
        "runs": len(results),
        "files": [str(result.path) for result in results],
        "seeds": [result.seed for result in results],
    }


def _score_lines(comparison: ScoredComparison) -> list[str]:
    num_images, num_classes = comparison.any_counts.target.shape
    width_of_names = max(map(len, comparison.models))
    has_stray = any(own.has_stray_class for results in comparison.models.values() for own in results)
    basis = ", over the classes in the labels" * has_stray
    lines = [f"{num_images} images, {num_classes} classes; differences are of scores before rounding{basis}"]
    for name, results in comparison.models.items():
        miou = [100 * result.miou for result in results]
        seeds = [result.seed for result in results if result.seed is not None]
        of_seeds = f" of seeds {', '.join(map(str, seeds))}" if len(seeds) == len(results) else ""
        values = ", ".join(f"{value:.2f}" for value in miou)
        scores = f"   mean of {len(miou)} results{of_seeds}: {values}" if len(miou) > 1 else ""
        if has_stray:
            labelled = sum(100 * result.miou_of_labelled for result in results) / len(results)
            scores = f"   over the classes in the labels {labelled:6.2f} %{scores}"
        lines.append(f"{name:<{width_of_names}}  mIoU {sum(miou) / len(miou):6.2f} %{scores}")
    return lines


def scored_verdicts(comparison: ScoredComparison) -> list[str]:
    """Returns a sentence for each pair, then how to read them."""
    pairs = comparison.pairs
    several = any(pair.p is not None for pair in pairs)
    sentences = [pair_sentence(pair, comparison.any_counts.class_names) for pair in pairs]
    num_groups = pairs[0].num_groups
    images = " on these images, which are all of one group" if num_groups == 1 else " and new images"
    if several:
        sentences.append(SEVERAL_RESULTS.format(images=images))
    if single := [name for name, results in comparison.models.items() if len(results) == 1]:
        which = "per model" if len(single) == len(comparison.models) else f"of {', '.join(single)}"
        sentences.append(ONE_RESULT.format(which=which))
    if not several and len(pairs) > 1:
        sentences.append(UNCORRECTED.format(count=len(pairs)))
    if num_groups in (None, len(comparison.any_counts.sample_ids)):  # each image is one
        sentences.append(INDEPENDENT)
    elif num_groups != 1:
        uncertain = " With so few groups the interval itself is uncertain." * (num_groups < FEW_GROUPS)
        sentences.append(GROUPS.format(count=num_groups) + uncertain)
    return sentences


def _class_sentences(comparison: ScoredComparison) -> list[str]:
    """Returns for each of few pairs the classes whose interval excludes 0, the largest differences first.

    More pairs: where to find them.
    """
    if len(comparison.pairs) > MAX_PAIRS:
        return [f"Differences of every class are printed for at most {MAX_PAIRS} pairs; --json FILE has them for all."]
    sentences = []
    for pair in comparison.pairs:
        clear = [
            (abs(own.difference or 0), f"{name} {points(own.difference or 0)} {bracket(own.low, own.high)}")
            for name, own in comparison.class_differences(pair).items()
            if (own.low or 0) * (own.high or 0) > 0
        ]
        if clear:
            lead = f"{pair.a} - {pair.b}, classes whose own interval excludes 0 (not corrected for their number): "
            sentences.append(f"{lead}{listed([text for _, text in sorted(clear, reverse=True)], limit=5)}.")
    return sentences


def _images_separable(pair: Comparison) -> bool | None:
    """Tells whether the interval over images excludes 0; None without one."""
    if pair.images_low is None or pair.images_high is None:
        return None
    return not pair.images_low <= 0 <= pair.images_high


def pair_sentence(pair: Comparison, class_names: Sequence[str]) -> str:
    """Returns such as `b - a: +1.37 points [+0.60, +2.05]: b is better on images like these`."""
    lead = f"{pair.a} - {pair.b}: "
    if pair.difference is None:
        return f"{lead}cannot be compared, {pair.reason}."
    lead += f"{points(pair.difference)} points"
    if pair.p is not None:
        interval = f"{lead} {bracket(pair.low, pair.high)}, {pair.seeds_a} and {pair.seeds_b} results: "
        if not pair.is_separable:
            return f"{interval}not separable (p = {pair.p_holm:.3f}){by_score_text(pair)}."
        return f"{interval}{better_text(pair, class_names)}."
    if pair.difference == 0 and pair.images_low == 0:
        return f"{lead}: the counts are equal in every image."
    if pair.images_low is None or pair.images_high is None:
        where = "one image" if pair.reason == "one image" else "the same in every image"
        reason = ONE_GROUP if pair.num_groups == 1 else f"{where}: this says nothing about other images"
        return f"{lead}, {reason}{by_score_text(pair)}."
    interval = f"{lead} {bracket(pair.images_low, pair.images_high)} (paired 95 % interval over images): "
    if not _images_separable(pair):
        return f"{interval}not separable on images like these, as the interval includes 0{by_score_text(pair)}."
    better = pair.a if pair.difference > 0 else pair.b
    return f"{interval}{better} is better on images like these{by_score_text(pair)}."
