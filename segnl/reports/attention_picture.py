"""One PNG for a paper's figure: where a pixel looks, a row for each network, a panel for each measure."""

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from segnl.core.arrays import Pixels
from segnl.core.png import picture_hw, png
from segnl.evaluation.attention import RECEPTIVE_FIELD, AttentionRow
from segnl.reports.chart_style import DIVERGING, SEQUENTIAL

GAP, HEADER, SCALE, BAR_WH = 6, 24, 44, (260, 12)  # pixels
DARKENED = 0.5
"""Brightness of the grey photo under the weights, as on the page."""


def attention_picture(
    image: Pixels, pixel: tuple[int, int], networks: Mapping[str, Mapping[str, AttentionRow]], *, width: int = 320
) -> bytes:
    """Returns a PNG: the image with the pixel marked, then each network's rows; every panel is `width` pixels wide.

    image: u8 `H W 3`. networks: rows by measure, by name of the network. Below: the scales of the colours.
    """
    height, own_width = picture_hw(image.shape[:2], width)
    small = np.asarray(cv2.resize(image, (own_width, height), interpolation=cv2.INTER_AREA), np.uint8)
    at = ((pixel[1] + 0.5) * own_width / image.shape[1], (pixel[0] + 0.5) * height / image.shape[0])
    font = ImageFont.load_default(size=15)
    columns = 1 + max(len(rows) for rows in networks.values())
    kinds = {row.kind == "signed" for rows in networks.values() for row in rows.values()}
    size = (GAP + columns * (width + GAP), len(networks) * (HEADER + height + GAP) + SCALE)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, rows) in enumerate(networks.items()):
        top = i * (HEADER + height + GAP)
        panels = [(0, f"pixel {pixel[0]}, {pixel[1]}", small)] if i == 0 else []
        for column, (measure, row) in enumerate(rows.items(), start=1):
            is_field = measure == RECEPTIVE_FIELD  # which has a column of its own, the last one
            title = f"{name}: effective {measure}" if is_field else f"{name}: {measure}"
            panels.append((columns - 1 if is_field else column, title, overlay(small, row)))
        for column, title, panel in panels:
            left = GAP + column * (width + GAP)
            draw.text((left, top + HEADER // 2), title, fill="black", font=font, anchor="lm")
            sheet.paste(Image.fromarray(panel), (left, top + HEADER))
            _mark(draw, left + at[0], top + HEADER + at[1])
    left, top = GAP, size[1] - SCALE + GAP
    for is_signed in sorted(kinds):
        paint = colours(np.linspace(0, 1, BAR_WH[0]), is_signed=is_signed)
        row_of_pixels = np.rint(85 + paint[:, :1] * (paint[:, 1:] - 85)).astype(np.uint8)
        sheet.paste(Image.fromarray(np.tile(row_of_pixels, (BAR_WH[1], 1, 1))), (left, top))
        texts = ("-largest", "0", "+largest") if is_signed else ("0", "1/4", "largest")
        for place, text, anchor in zip((0, 0.5, 1), texts, ("la", "ma", "ra"), strict=True):
            below = (left + place * BAR_WH[0], top + BAR_WH[1] + 2)
            draw.text(below, text, fill="black", font=font, anchor=anchor)
        left += BAR_WH[0] + 10 * GAP
    return png(np.asarray(sheet))


def overlay(photo: Pixels, row: AttentionRow) -> Pixels:
    """Returns the weights of a row over the darkened grey photo, u8 `H W 3`; colours as on the page."""
    is_signed = row.kind == "signed"
    steps = row.weights / np.maximum(np.abs(row.weights).max(), np.finfo(np.float32).tiny)
    steps = np.copysign(np.sqrt(np.abs(steps)), steps)  # as the page: colour grows with the root of the weight
    paint = colours((steps + 1) / 2 if is_signed else steps, is_signed=is_signed)
    opacity, rgb = np.split(cv2.resize(paint, photo.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT), [1], axis=2)
    grey = DARKENED * cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float64)[..., None]
    mixed = grey + opacity * (rgb - grey)
    return np.rint(mixed).astype(np.uint8)


def colours(values: npt.NDArray[np.floating], *, is_signed: bool) -> npt.NDArray[np.float64]:
    """Returns opacity 0..1 and RGB 0..255 of values 0..1, f64 `* 4`, between the stops of the scale."""
    stops = DIVERGING if is_signed else SEQUENTIAL
    places = np.linspace(0, 1, len(stops))
    channels = np.array([(alpha, *rgb) for alpha, rgb in stops], np.float64).T
    return np.stack([np.interp(values, places, channel) for channel in channels], axis=-1)


def _mark(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    """Draws a white ring with black edges, which shows on any picture."""
    for radius, colour, line in ((8, "black", 5), (7, "white", 3)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=line)
