"""One PNG for a paper's figure: a row an image, a column for the image, the truth and every network."""

import io
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from segnl.datasets.base import SegmentationData
from segnl.inspection.gallery import Shown

Pixels = npt.NDArray[np.uint8]

GAP, HEADER = 6, 26  # pixels


def contact_sheet(shown: Sequence[Shown], data: SegmentationData, indices: Sequence[int], *, width: int = 320) -> bytes:
    """A PNG of the images `indices` of the split; every panel is `width` pixels wide. The header names the columns."""
    rows = [_row(shown, data, i, width) for i in indices]
    titles = ["image", "truth", *(each.name for each in shown)]
    total = len(titles) * (width + GAP) + GAP
    sheet = Image.new("RGB", (total, HEADER + sum(row[0].shape[0] + GAP for row in rows)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=16)
    for column, title in enumerate(titles):
        draw.text((GAP + column * (width + GAP) + width // 2, HEADER // 2), title, fill="black", font=font, anchor="mm")
    top = HEADER
    for row in rows:
        for column, panel in enumerate(row):
            sheet.paste(Image.fromarray(panel), (GAP + column * (width + GAP), top))
        top += row[0].shape[0] + GAP
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()


def _row(shown: Sequence[Shown], data: SegmentationData, i: int, width: int) -> list[Pixels]:
    sample, table = data.read(i), data.table
    height = max(1, round(sample.label.shape[0] * width / sample.label.shape[1]))
    masks = [sample.label, *(each.predictions.mask(i, table) for each in shown)]
    colours = [_resized(table.colour(mask), (width, height), cv2.INTER_NEAREST_EXACT) for mask in masks]
    return [_resized(sample.image, (width, height), cv2.INTER_AREA), *colours]


def _resized(pixels: Pixels, wh: tuple[int, int], how: int) -> Pixels:
    return np.asarray(cv2.resize(pixels, wh, interpolation=how), np.uint8)
