"""Scores of masks as text for a terminal. Imports no torch."""

import itertools
import math
from functools import partial
from textwrap import fill

from segnl.data.mask_files import listed
from segnl.evaluation.score_masks import MaskScore
from segnl.evaluation.score_warnings import count_of
from segnl.metrics.confusion import mean_of_defined, table_text
from segnl.metrics.definitions import COARSE, DEFINITIONS, TITLES, Definition

ABOUT_DEFINITIONS = (
    'Other projects define mIoU differently. For these masks their definitions give the numbers below; "points": '
    "this number minus the exact mIoU (unrounded)."
)
ABOUT_BOUNDARY = "mIoU of the pixels near an edge of their class (0.5 % of the image's diagonal)"
NAME_WIDTH = 24
ABOUT_COLUMNS = "(in %; acc: recall; prec: precision; share: of all labelled pixels; -: undefined)"
EQUAL = ("+0.00", "-0.00")
UNDEFINED = "It prints no number for these masks."
ALL_DEFINITIONS = "--json OUT.json also writes a page with all definitions and their sources."
IN_THE_TABLE = ("frequency_weighted", "pixel_accuracy", "mean_accuracy")
"""Definitions that are printed as scores of their own."""
_fill = partial(fill, break_on_hyphens=False)  # so that no option is broken


def score_text(score: MaskScore, *, width: int, writes_page: bool = False) -> str:
    """Returns warnings, scores and the definitions for a terminal of `width` characters.

    writes_page: whether a page follows, which has all definitions.
    """
    confusion, num_images = score.counts.confusion, len(score.sample_ids)
    boundary = mean_of_defined(score.boundary_iou)
    lines = [_fill(_pairs_text(score), width)]
    lines += [_fill(f"warning: {sentence}", width, subsequent_indent="  ") for sentence in score.warnings]
    *table, images = _short_table(score)
    lines += ["", *table, f"{'boundary IoU':<{NAME_WIDTH}} {percent(boundary):>7}   {ABOUT_BOUNDARY}", images]
    if confusion.num_classes == 2:
        lines += ["", _fill(binary_text(score), width)]
    lines += ["", _fill(ABOUT_DEFINITIONS, width), "", f"{'%':>7} {'points':>7}  definition"]
    equal, last_meaning = [], ""
    for own in DEFINITIONS:
        value, difference = score.definitions[own.name], difference_text(score, own.name)
        if difference in EQUAL:
            equal.append(own.title)
        elif own is not DEFINITIONS[0] and own.name not in IN_THE_TABLE:
            meaning = meaning_text(score, own)
            text = f"As ultralytics above, with imgsz={own.long_side_px}." if meaning == last_meaning else meaning
            lines += [f"{percent(value):>7} {difference:>7}  {own.title}"]
            lines += [_fill(text, width, initial_indent=" " * 17, subsequent_indent=" " * 17)]
            last_meaning = meaning
    if equal:
        lines += ["", _fill(f"Equal to the exact mIoU here, to two decimals: {'; '.join(equal)}.", width)]
    lines += [] if writes_page else ["", ALL_DEFINITIONS]
    noted = f" ({count_of(len(score.warnings), 'warning')} above)" if score.warnings else ""
    exact = f"The exact mIoU (Cityscapes, mmsegmentation) is {percent(confusion.miou())} %"
    lines += ["", f"{exact} over {count_of(num_images, 'image')}{noted}."]
    if score.published is not None:
        lines += [_fill(published_text(score), width)]
    return "\n".join(lines)


def _pairs_text(score: MaskScore) -> str:
    request, (label, prediction) = score.request, score.masks[0]
    first, second = (
        mask.where.removeprefix(f"{folder}/")
        for mask, folder in ((prediction, request.predictions), (label, request.labels))
    )
    counts = count_of(len(score.masks), "prediction"), count_of(score.num_labels, "label")
    return f"{' paired with '.join(counts)}, for example {first} with {second}."


def _short_table(score: MaskScore) -> list[str]:
    """Returns the lines of `table_text` with names cut to NAME_WIDTH and without classes that do not occur."""
    confusion, names = score.counts.confusion, score.table.names
    width = max(NAME_WIDTH, *map(len, names))
    lines = table_text(confusion, list(names), num_images=len(score.sample_ids)).splitlines()
    head, *rows = [line[:NAME_WIDTH] + line[width:] for line in lines]
    occurs = (confusion.target() + confusion.prediction() > 0).tolist()
    hidden = [f"(not shown, as in neither labels nor predictions: {occurs.count(False)} of {len(names)})"]
    means = [*hidden * (False in occurs), ABOUT_COLUMNS, *rows[len(names) :]]
    return [head, *itertools.compress(rows, occurs), *means]


def percent(value: float) -> str:
    """Formats a fraction as percent, such as 71.23; - for NaN."""
    return f"{100 * value:.2f}" if value == value else "-"


def difference_text(score: MaskScore, name: str) -> str:
    """Formats a definition's difference from the exact mIoU in points; "" for the exact one and for undefined."""
    value, exact = score.definitions[name], score.definitions[DEFINITIONS[0].name]
    if name == DEFINITIONS[0].name or value != value or exact != exact:
        return ""
    return f"{100 * round(value - exact, 12) + 0.0:+.2f}"  # -0.00 is a little lower, +0.00 also equal


def meaning_text(score: MaskScore, definition: Definition) -> str:
    """Returns what a definition does differently; about ignored ids only where some are in these masks."""
    has_ignored = score.counts.total[-1].any() or score.counts.total[:, -1].any()
    texts = [definition.meaning, definition.about_ignored * bool(has_ignored)]
    texts += [UNDEFINED] if math.isnan(score.definitions[definition.name]) else []
    return " ".join(filter(None, texts))


def binary_text(score: MaskScore) -> str:
    """Returns a sentence about what packages print for the foreground of a table of two classes."""
    iou, dice = (percent(value) for value in score.foreground_image_means)
    return (
        "The foreground's IoU is what torchmetrics' BinaryJaccardIndex and segmentation_models_pytorch with "
        "mode='binary', reduction='micro' give, and its F1 is their Dice: papers on binary masks often publish these. "
        f"With reduction='micro-imagewise' they are {iou} and {dice}: the mean over images, where one without "
        "foreground counts 1 if none is predicted, else 0."
    )


def published_text(score: MaskScore) -> str:
    """Returns sentences about which scores the published number fits; "" without one."""
    published = score.published
    if published is None:
        return ""
    lead, definitions = f"Published {published.text} fits", "; ".join(TITLES[name] for name in published.matches)
    if not published.matches + published.other_matches:
        if published.nearest is None:
            return f"{lead} no score, as no pixel is labelled."
        nearest = {**score.definitions, **score.other_scores}[published.nearest]
        return (
            f"{lead} no score of these masks. The nearest is {TITLES.get(published.nearest, published.nearest)} with "
            f"{percent(nearest)} %. So the masks, the images, the classes or the "
            "definition differ from the published ones."
        )
    text = f"{lead} {definitions or 'no definition of mIoU'}."
    if published.other_matches:
        text += f" It {'also ' * bool(definitions)}fits {listed(published.other_matches, limit=3)}."
    if published.tolerance >= COARSE:
        low, high = (100 * (published.value + sign * published.tolerance) for sign in (-1, 1))
        num_scores = len(score.definitions) + len(score.other_scores)
        text += f" So few digits fit every score from {low:.4g} to {high:.4g} %; {num_scores} scores were compared, so "
        text += "this may be chance."
    return text
