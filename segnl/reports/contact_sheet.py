"""One PNG for a paper's figure: a row for each image, columns for the image, its label and every network."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segnl.core import IGNORE
from segnl.core.arrays import Pixels
from segnl.core.png import picture_hw, png
from segnl.data.base import SegmentationData
from segnl.data.reading import rgb_view
from segnl.evaluation.evaluation import Evaluation

GAP, HEADER = 6, 26  # pixels
LINE, SWATCH = 24, 14  # pixels, of the legend


def contact_sheet(
    networks: Mapping[str, Evaluation], data: SegmentationData, indices: Sequence[int], *, width: int = 320
) -> bytes:
    """Returns a PNG of the images `indices` of the split; every panel is `width` pixels wide.

    The header names the columns. The legend below shows the colour of every class in the masks, and of ignored pixels.
    """
    masks = [[data.read(i).label, *(own.mask(i, data.table) for own in networks.values())] for i in indices]
    rows = [_row(data, i, width, columns) for i, columns in zip(indices, masks, strict=True)]
    titles = ["image", "label", *networks]
    total = len(titles) * (width + GAP) + GAP
    font = ImageFont.load_default(size=16)
    present = sorted({k for columns in masks for mask in columns for k in np.unique(mask).tolist()})
    names = [*((data.table.names[k], k) for k in present if k != IGNORE), *[("ignored", IGNORE)] * (IGNORE in present)]
    entries = _legend(names, total, font)
    top = HEADER + sum(row[0].shape[0] + GAP for row in rows)
    sheet = Image.new("RGB", (total, top + LINE * (1 + max((line for _, line, _, _ in entries), default=-1))), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((GAP + column * (width + GAP) + width // 2, HEADER // 2), title, fill="black", font=font, anchor="mm")
    for left, line, name, k in entries:
        y = top + line * LINE + LINE // 2
        colour = tuple(data.table.colour(np.full((1, 1), k, np.uint8))[0, 0].tolist())
        draw.rectangle((left, y - SWATCH // 2, left + SWATCH, y + SWATCH // 2), fill=colour, outline="gray")
        draw.text((left + SWATCH + GAP, y), name, fill="black", font=font, anchor="lm")
    top = HEADER
    for row in rows:
        for column, panel in enumerate(row):
            sheet.paste(Image.fromarray(panel), (GAP + column * (width + GAP), top))
        top += row[0].shape[0] + GAP
    return png(np.asarray(sheet))


def _legend(
    classes: Sequence[tuple[str, int]], width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[tuple[int, int, str, int]]:
    """Returns left edge, line, name and index of each class, in lines of at most `width` pixels."""
    left, line, entries = GAP, 0, []
    for name, k in classes:
        entry_width = SWATCH + 4 * GAP + round(font.getlength(name))
        if left > GAP and left + entry_width > width:
            left, line = GAP, line + 1
        entries.append((left, line, name, k))
        left += entry_width
    return entries


def _row(data: SegmentationData, i: int, width: int, masks: Sequence[Pixels]) -> list[Pixels]:
    image = rgb_view(data.read(i).image)
    wh = picture_hw(image.shape[:2], width)[::-1]
    colours = [_resized(data.table.colour(mask), wh, cv2.INTER_NEAREST_EXACT) for mask in masks]
    return [_resized(image, wh, cv2.INTER_AREA), *colours]


def _resized(pixels: Pixels, wh: tuple[int, int], how: int) -> Pixels:
    return np.asarray(cv2.resize(pixels, wh, interpolation=how), np.uint8)
