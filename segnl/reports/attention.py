"""Attention on a page: the rows of a grid of pixels that the reader can click, and averages over the split.

A weight w is stored as one byte, round(255 sqrt(w / m)), where m is the largest weight of its row; signed weights have
127 steps to either side. So a stored weight is off by at most sqrt(w m) / 255 + m / 260,100 (signed: sqrt(w m) / 127 +
m / 64,516). The square root keeps the many small weights of a wide row (docs/adr/0016). Entropy, distance and own-class
share are computed before that, from the exact weights.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, TypeAdapter

from segnl.core import IGNORE
from segnl.core.arrays import Pixels
from segnl.core.config import JSONDict
from segnl.core.files import write_atomic
from segnl.core.outputs import marked
from segnl.core.progress import Progress
from segnl.core.result_cache import Record
from segnl.evaluation.attention import RECEPTIVE_FIELD, AttentionMaps, ImageAttention, RunAttention, grid_hw
from segnl.metrics.attention import centres, class_fractions, label_at, own_class_share
from segnl.reports.gallery import pack
from segnl.reports.page import Attention, DotChart, DotRow, Grid
from segnl.reports.plot import Plot, PlotGroup, Points, line_plot

MAX_KEYS = 2048
"""Positions of a stored row; a larger map is summed over squares of positions."""
MAX_WEIGHTS = 2**18
"""Stored weights of one image, network and measure: 256 kB before compression."""
MAX_FIELDS, FIELD_SECONDS = 128, 2.0
"""Receptive fields of one image and network: how many, and the time for them."""
MAX_CHARACTERS = 8_000_000
"""Of all rows of a page; with more, every second row and column of the grids is left out."""
NAME, VERSION = "attention_rows", 1
"""Of the rows in a run's cache; VERSION is raised when they change their meaning."""

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """Stored rows of one image by one measure.

    codes: u8 `gh gw h w`, of the queries on a grid. numbers: f32 `gh gw 4`: largest weight, entropy in bits, mean
    distance in pixels, own-class share (NaN: undefined). extent: height and width of the map h w as fractions of the
    image's, at least 1: its last cells may reach beyond. map_hw: of the network's map.
    """

    name: str
    kind: str
    codes: Pixels
    numbers: Numbers
    extent: Sequence[float]
    map_hw: Sequence[int]

    def to_dict(self, step: int = 1) -> JSONDict:
        """Returns what the page's script reads of every `step`-th query in each direction, from half a step inside."""
        gh, gw = self.codes.shape[:2]
        at_rows, at_columns = (np.arange(min(step // 2, size - 1), size, step) for size in (gh, gw))
        keep = np.ix_(at_rows, at_columns)
        return {
            "name": self.name,
            "kind": self.kind,
            "hw": list(self.codes.shape[2:]),
            "extent": [round(value, 6) for value in self.extent],
            "map": list(self.map_hw),
            "rows": np.round((at_rows + 0.5) / gh, 5).tolist(),
            "columns": np.round((at_columns + 0.5) / gw, 5).tolist(),
            "codes": pack(self.codes[keep]),
            "numbers": pack(self.numbers[keep].astype("<f4")),
        }


class _StoredRows(BaseModel, extra="forbid"):
    name: str
    kind: Literal["softmax", "signed", "gradient"]
    extent: tuple[float, float]
    map_hw: tuple[int, int]


def encode(weights: npt.NDArray[np.float32], *, is_signed: bool) -> tuple[Pixels, Numbers]:
    """Returns codes u8 `q n` and the largest absolute weight of each row, f32 `q`.

    Signed codes are two's complement.
    """
    largest = np.abs(weights).max(axis=1).astype(np.float32)
    root = np.sqrt(np.abs(weights) / np.maximum(largest, np.finfo(np.float32).tiny)[:, None])
    if is_signed:
        signed = np.rint(np.copysign(127 * root, weights)).astype(np.int8)
        return signed.view(np.uint8), largest
    return np.rint(255 * root).astype(np.uint8), largest


def pooled(weights: npt.NDArray[np.float32], most: int) -> tuple[npt.NDArray[np.float32], tuple[float, float]]:
    """Sums weights `q h w` over squares of positions until at most `most` are left: `q h' w'`, and their extent."""
    _, h, w = weights.shape
    step = next(s for s in itertools.count(1) if -(-h // s) * -(-w // s) <= max(1, most))
    pad_h, pad_w = -h % step, -w % step
    padded = np.pad(weights, ((0, 0), (0, pad_h), (0, pad_w)))
    cells = padded.reshape(len(weights), (h + pad_h) // step, step, (w + pad_w) // step, step)
    return cells.sum(axis=(2, 4)), ((h + pad_h) / h, (w + pad_w) / w)


def rows_of(maps: AttentionMaps, grid: tuple[int, int], label: Pixels, num_classes: int) -> Rows:
    """Returns the rows to store of the queries of a grid, row by row."""
    classes = label_at(label, (maps.cells + 0.5) / np.array(maps.query_hw))
    own = own_class_share(maps.share, class_fractions(label, num_classes, maps.hw), classes)
    weights, extent = pooled(maps.weights, MAX_KEYS)
    codes, largest = encode(weights.reshape(len(weights), -1), is_signed=maps.kind == "signed")
    numbers = np.stack([largest, maps.entropy_bits(), maps.distance_px(), own], axis=1).astype(np.float32)
    on_grid = codes.reshape(*grid, *weights.shape[1:]), numbers.reshape(*grid, 4)
    return Rows(maps.name, maps.kind, *on_grid, extent, maps.query_hw)


def image_rows(image: ImageAttention, label: Pixels, num_classes: int) -> list[Rows]:
    """Returns the rows of all measures of one image; the grids are as fine as time and size allow."""
    grid = grid_hw(image.map_hw, MAX_WEIGHTS / min(MAX_KEYS, image.map_hw[0] * image.map_hw[1]))
    rows = [rows_of(maps, grid, label, num_classes) for maps in image.attention(centres(grid))]
    most = min(MAX_FIELDS, FIELD_SECONDS / image.seconds_per_field())
    if most < 1 and rows:  # its attention is there; a head without attention has one field, however long it takes
        return rows
    fields = grid_hw(image.map_hw, most)
    return [*rows, rows_of(image.receptive_field(centres(fields)), fields, label, num_classes)]


def add_rows(gallery: dict[str, Any], runs: Sequence[RunAttention], *, num_images: int) -> None:
    """Gives the first `num_images` images of a gallery the rows of every network, under "attention".

    Each gets {"start": the pixel to begin with, "heads": a list of measures for each network}.
    """
    images = gallery["images"][:num_images]
    rows: list[list[list[Rows]]] = []
    with Progress("attention for the page", len(images), unit="image") as progress:
        for image in images:
            i = runs[0].data.sample_ids.index(image["id"])
            rows.append([_stored_rows(run, i) for run in runs])
            progress.advance()
    for step in (1, 2, 4, 8, 16):
        packed = [[[own.to_dict(step) for own in head] for head in heads] for heads in rows]
        if len(json.dumps(packed)) <= MAX_CHARACTERS:
            break
    else:
        packed = []
    for image, heads in zip(images, packed, strict=False):
        i = runs[0].data.sample_ids.index(image["id"])
        image["attention"] = {"start": _telling_pixel(runs, i), "heads": heads}


def _stored_rows(run: RunAttention, i: int) -> list[Rows]:
    """Returns the rows of image `i`, from the run's cache where they are there."""
    bounds = [MAX_KEYS, MAX_WEIGHTS, MAX_FIELDS, FIELD_SECONDS]
    key = {"version": VERSION, "evaluation": run.evaluation.key, "image": run.data.sample_ids[i], "bounds": bounds}
    record = run.evaluation.cache.load(NAME, key, is_valid=lambda record: bool(_rows_in(record)))
    if record is None:
        rows = image_rows(run.of_image(i), run.data.read(i).label, run.data.table.num_classes)
        value = [{"name": r.name, "kind": r.kind, "extent": r.extent, "map_hw": r.map_hw} for r in rows]
        codes = {f"codes{n}": r.codes for n, r in enumerate(rows)}
        record = Record(key, value, codes | {f"numbers{n}": r.numbers for n, r in enumerate(rows)})
        run.evaluation.cache.store(NAME, record)
        return rows
    return _rows_in(record)


def _rows_in(record: Record) -> list[Rows]:
    """Returns the rows of a record. Raises ValueError or LookupError for one of other content."""
    rows = [
        Rows(**dict(stored), codes=record.arrays[f"codes{n}"], numbers=record.arrays[f"numbers{n}"])
        for n, stored in enumerate(TypeAdapter(list[_StoredRows]).validate_python(record.value))
    ]
    for own in rows:
        is_typed = own.codes.dtype == np.uint8 and own.numbers.dtype == np.float32 and own.codes.size > 0
        if not is_typed or own.codes.ndim != 4 or own.numbers.shape != (*own.codes.shape[:2], 4):
            raise ValueError(f"codes {own.codes.dtype} {own.codes.shape}, numbers {own.numbers.shape}")
    return rows


def _telling_pixel(runs: Sequence[RunAttention], i: int) -> list[float]:
    """Returns the middle of the largest region on which the networks differ (one network: that is wrong).

    As fractions of height and width; the middle of the image where there is none.
    """
    data = runs[0].data
    label = data.read(i).label
    first, *others = (run.evaluation.mask(i, data.table) for run in runs)
    differs = np.any([first != other for other in others or [label]], axis=0) & (label != IGNORE)
    depth = cv2.distanceTransform(np.pad(differs.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    if not differs.any():
        return [0.5, 0.5]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return [round((float(row) + 0.5) / label.shape[0], 5), round((float(column) + 0.5) / label.shape[1], 5)]


def add_attention(
    gallery: dict[str, Any], runs: Mapping[str, RunAttention], file: Path, *, num_images: int, command: str
) -> Attention | None:
    """Gives the gallery's first images their rows and writes the averages to `file`; returns them for the page.

    runs: by name, in the order of the gallery. None, and no file, for num_images = 0: one of an earlier page would not
    belong to this one. command: that of segnl which writes it; see core/outputs.py.
    """
    if num_images == 0:
        file.unlink(missing_ok=True)
        return None
    add_rows(gallery, list(runs.values()), num_images=num_images)
    averages = {name: run.averages() for name, run in runs.items()}
    content = json.dumps({"networks": averages, "complete": True}, indent=1).encode()
    write_atomic(file, marked(content, command))
    return attention_of(averages)


def main_measure(averages: JSONDict) -> str | None:
    """Returns the measure that stands for a network's attention; None for one that does not attend."""
    return next((name for name in averages["measures"] if name != RECEPTIVE_FIELD), None)


def attention_of(networks: Mapping[str, JSONDict]) -> Attention:
    """Returns the averages by network as a table, curves and charts of classes."""
    attending = {name: main for name, averages in networks.items() if (main := main_measure(averages))}
    fields = {name: RECEPTIVE_FIELD for name, averages in networks.items() if RECEPTIVE_FIELD in averages["measures"]}
    titles = {"Attention": attending, "Effective receptive field": fields}
    plots = [_within_plot(title, networks, measures) for title, measures in titles.items() if measures]
    measures = attending or fields
    return Attention(
        table=_table(networks),
        curves=PlotGroup(
            name="attention-curves",
            title="How far the weights lie",
            meaning="The percentage of the weights that lies within a distance of the pixel, mean over pixels. A curve "
            "that rises early: a head that looks close by. The axes do not start at 0.",
            plots=plots,
        ),
        charts=_class_charts(networks, measures),
    )


def _within_plot(title: str, networks: Mapping[str, JSONDict], measures: Mapping[str, str]) -> Plot:
    points = []
    for index, (name, averages) in enumerate(networks.items()):
        if name in measures:
            within = averages["measures"][measures[name]]["within"]
            y = np.array([np.nan if value is None else 100 * value for value in within], np.float64)
            points.append(Points(index, 100 * np.array(averages["limits"]), y))
    return line_plot(title, points, x_label="distance, % of the image's diagonal", y_label="weights within it, %")


def _table(networks: Mapping[str, JSONDict]) -> Grid:
    titles = ["Head", "Measure", "Pixels", "Mean distance, px", "Entropy, bits", "As wide as", "On its own class, %"]
    rows = [titles]
    for name, averages in networks.items():
        for measure, own in averages["measures"].items():
            if own["distance_px"] is None:
                continue
            cells = 2 ** own["entropy_bits"], 2 ** own["entropy_bits_uniform"]
            share = f"{100 * own['own_class']:.0f} ({100 * own['own_class_uniform']:.0f})"
            rows.append(
                [
                    name,
                    measure,
                    f"{own['queries']:,}",
                    f"{own['distance_px']:.0f} ({own['distance_px_uniform']:.0f})",
                    f"{own['entropy_bits']:.1f} ({own['entropy_bits_uniform']:.1f})",
                    f"{cells[0]:,.0f} of {cells[1]:,.0f} positions",
                    share,
                ]
            )
    counts = sorted({averages["num_images"] for averages in networks.values()})
    return Grid(
        title="Averages over the split",
        sentences=[
            f"Means over labelled pixels on a regular grid of {counts[-1]} images, evenly spaced in the split. In "
            "brackets: what equal weights at all positions would give."
        ],
        rows=rows,
        note="As wide as: 2 to the power of the entropy, the number of equally weighted positions with this entropy. "
        "On its own class: the percentage of the weights on pixels that have its class in the label. Signed "
        "weights (dot product, concatenation) count by their absolute value. The receptive field counts everything "
        "in the head, its convolutions too; attention counts the attention alone.",
    )


def _class_charts(networks: Mapping[str, JSONDict], measures: Mapping[str, str]) -> list[DotChart]:
    by_head = [
        averages["measures"][measures[name]]["by_class"] if name in measures else None
        for name, averages in networks.items()
    ]
    known = next(own for own in by_head if own is not None)
    what = "attention" if set(measures.values()) != {RECEPTIVE_FIELD} else "receptive field"

    def rows(value_of: Any) -> list[DotRow]:
        return [
            DotRow(
                name,
                [value_of(own[name]) if own else None for own in by_head],
                f"{own_known['queries']} pixels, {100 * own_known['own_class_uniform']:.0f} % of their images",
            )
            for name, own_known in known.items()
            if own_known["queries"]
        ]

    def relative_entropy(own: JSONDict) -> float | None:
        bits, most = own["entropy_bits"], own["entropy_bits_uniform"]
        return None if bits is None or not most else min(1.0, bits / most)

    return [
        DotChart(
            f"Own class: {what} by class of the pixel",
            f"The percentage of a pixel's {what} that lies on pixels of its own class. Equal weights at all positions "
            "would give the class's part of the image, which stands beside its name.",
            rows(lambda own: own["own_class"]),
        ),
        DotChart(
            f"Distance: {what} by class of the pixel",
            f"How far the {what} lies from the pixel on average, as a percentage of the image's diagonal.",
            rows(lambda own: own["distance"]),
        ),
        DotChart(
            f"Width: {what} by class of the pixel",
            "The entropy as a percentage of the largest possible: 0 is a single position, 100 all positions alike.",
            rows(relative_entropy),
        ),
    ]
