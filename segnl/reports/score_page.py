"""The page of `segnl score`: one HTML file that opens from disk without a network. Imports no torch."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from segnl.core.files import utf8
from segnl.core.png import png_url
from segnl.evaluation.masks import error_map
from segnl.evaluation.score_classes import IDS_IN_WORDS
from segnl.evaluation.score_masks import MaskScore
from segnl.labels.table import ranges
from segnl.metrics.confusion import mean_of_defined
from segnl.metrics.definitions import DEFINITIONS
from segnl.reports import score_text
from segnl.reports.page import template
from segnl.reports.score_text import EQUAL, difference_text, percent, published_text

if TYPE_CHECKING:
    from markupsafe import Markup

NUM_PICTURES = 6
PICTURE_WIDTH = 420  # pixels


@dataclass(frozen=True)
class Picture:
    """An image of the page as data URLs of PNG files. miou, accuracy: of its labelled pixels, fractions."""

    sample_id: str
    miou: float
    accuracy: float
    label: str
    prediction: str
    errors: str


def score_page(score: MaskScore) -> bytes:
    """Returns the page in HTML: the scores, the definitions, the classes and the worst images."""
    confusion = score.counts.confusion
    definitions = [(own, score.definitions[own.name], difference_text(score, own.name)) for own in DEFINITIONS]
    html = template("score.html").render(
        score=score,
        title=f"{score.request.predictions.name}: {percent(confusion.miou())} % mIoU",
        ids_in_words=IDS_IN_WORDS[score.request.prediction_ids],
        ignored=_ignored_text(score),
        warnings=[_unbroken(sentence) for sentence in score.warnings],
        published=published_text(score),
        about_binary=score_text.binary_text(score) if score.table.num_classes == 2 else "",
        about_definitions=score_text.ABOUT_DEFINITIONS,
        differing=[row for row in definitions if row[2] not in EQUAL],
        equal=[row for row in definitions if row[2] in EQUAL],
        meaning_text=score_text.meaning_text,
        black="".join(
            f"{name}, " for name, own in zip(score.table.names, score.table.palette, strict=True) if not own.any()
        ),
        columns=[
            ("IoU %", confusion.iou()),
            ("Boundary IoU %", score.boundary_iou),
            ("Accuracy %", confusion.recall()),
            ("Precision %", confusion.precision()),
            ("F1 %", confusion.f1()),
            ("Share of pixels %", confusion.target() / max(1, int(confusion.target().sum()))),
        ],
        boundary_iou=mean_of_defined(score.boundary_iou),
        confusion=confusion,
        percent=percent,
        pictures=[_picture(score, i) for i in score.worst(NUM_PICTURES)],
    )
    return utf8(html).encode()


def _ignored_text(score: MaskScore) -> str:
    foreground = score.request.foreground_id
    ids = ranges({*score.table.ignore_ids} - {foreground}) or "none"
    return ids if foreground is None else f"{ids}; {foreground} stands for '{score.table.names[1]}' (--foreground)"


def _unbroken(sentence: str) -> "Markup":
    """Returns a sentence as HTML in which no line ends within an option."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"--[a-z-]+( [a-z0-9-]+)?", r'<span class="option">\g<0></span>', str(escape(sentence))))


def _picture(score: MaskScore, i: int) -> Picture:
    prediction, label = score.read(i)
    factor = min(1.0, PICTURE_WIDTH / label.shape[1])
    wh = tuple(max(1, round(factor * length)) for length in label.shape[::-1])
    small_label, small = (
        np.asarray(cv2.resize(ids, wh, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8) for ids in (label, prediction)
    )
    blank = np.full((*small.shape, 3), 190, np.uint8)  # the masks come without their image
    return Picture(
        score.sample_ids[i],
        float(score.counts.images.miou[i]),
        float(score.counts.images.accuracy[i]),
        png_url(score.table.colour(small_label)),
        png_url(score.table.colour(small)),
        png_url(error_map(blank, small, small_label)),
    )
