"""Where the pixels of an image look: attention weights and effective receptive fields, and their averages over a split.

An image passes the network once, whole and in float32, at the size of its recipe that is nearest to its own, also where
the recipe scores by windows, several scales or in half precision.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segnl.core import IGNORE
from segnl.core.arrays import Floats, Pixels
from segnl.core.config import JSONDict
from segnl.core.progress import Progress
from segnl.core.result_cache import has_form
from segnl.data.base import SegmentationData
from segnl.evaluation.evaluation import Evaluation
from segnl.evaluation.inference import HW
from segnl.evaluation.predictor import Predictor, predictor_of
from segnl.evaluation.presets import input_hws
from segnl.metrics.attention import (
    cell_of,
    centres,
    class_fractions,
    distances,
    entropy_bits,
    label_at,
    mass_within,
    own_class_share,
    shares,
)
from segnl.metrics.confusion import number_or_none
from segnl.models.heads.base import attention_rows, checked_pixel
from segnl.models.receptive_field import queries_per_pass, receptive_field
from segnl.models.segmenter import Segmenter
from segnl.ops.resize import resize
from segnl.runs.run import Run

RECEPTIVE_FIELD = "receptive field"
NAME, VERSION = "attention", 1
"""Of the averages in a run's cache; VERSION is raised when they change their meaning."""
NUM_IMAGES, NUM_QUERIES, NUM_FIELDS = 16, 64, 16
"""Of the averages: images of the split, evenly spaced, and queries an image, at most: of attention, of fields."""
SECONDS = 2.0
"""Time for an image's receptive fields in the averages; where it does not suffice, fewer queries have one."""
SLOW_SECONDS = 0.5
"""Time of a receptive field that is measured only once."""
LIMITS = np.arange(1, 21) / 20
"""Distances of the curves, as fractions of the image's diagonal."""


@dataclass(frozen=True)
class AttentionMaps:
    """Where queries of one image look, by one measure.

    name: "attention", "hop 1", "all hops", "receptive field" and so on. kind: softmax and gradient weights sum to 1,
    signed ones have any sign and size. weights: f32 `q h w` over the positions of a map. cells: the query's row and
    column on a map of size query_hw, int `q 2`. image_hw: size of the image, for distances in its pixels.
    """

    name: str
    kind: Literal["softmax", "signed", "gradient"]
    weights: npt.NDArray[np.float32]
    cells: npt.NDArray[np.intp]
    query_hw: HW
    image_hw: HW

    @property
    def hw(self) -> HW:
        """Size of the map over which the weights lie."""
        return self.weights.shape[1], self.weights.shape[2]

    @cached_property
    def share(self) -> Floats:
        """Absolute weights divided by their sum, f64 `q h*w`."""
        return shares(self.weights.reshape(len(self.weights), -1))

    @cached_property
    def distance(self) -> Floats:
        """Distances between the centres of queries and positions in pixels of the image, f64 `q h*w`."""
        queries = (self.cells + 0.5) / np.array(self.query_hw)
        return distances(queries * np.array(self.image_hw), centres(self.hw) * np.array(self.image_hw))

    def entropy_bits(self) -> Floats:
        """Returns the entropy of each query's shares, f64 `q`."""
        return entropy_bits(self.share)

    def distance_px(self) -> Floats:
        """Returns the mean distance that each query looks, f64 `q`, in pixels of the image."""
        mean: Floats = (self.share * self.distance).sum(axis=1)
        return mean


@dataclass(frozen=True)
class AttentionRow:
    """Where one pixel of an image looks, by one measure.

    kind: softmax and gradient weights sum to 1, signed ones have any sign and size. weights: f32 `h w`, over the
    positions of the feature map, which cover the image evenly. entropy_bits, distance_px: width of the weights, and
    their mean distance from the pixel in pixels of the image (of absolute values; NaN where all are 0).
    """

    kind: Literal["softmax", "signed", "gradient"]
    weights: npt.NDArray[np.float32]
    entropy_bits: float
    distance_px: float


class ImageAttention:
    """Features of one image in a network, from which the attention of any of its pixels is computed.

    image: u8 `H W 3`, RGB, or the bands that the network reads. input_hw: size at which it sees them; None: their own.
    Raises ValueError for a network in training mode, or an image of another shape or type.
    """

    def __init__(self, model: Segmenter, image: Pixels, *, input_hw: HW | None = None) -> None:
        if model.training:
            raise ValueError("the network is in training mode, where batch norm depends on the batch; call eval()")
        channels = model.image_channels
        if image.ndim != 3 or image.shape[2] != channels or image.dtype != np.uint8:
            raise ValueError(
                f"image: {image.dtype} {image.shape}; expected uint8 `H W {channels}` (a tensor: `{channels} H W`)"
            )
        self.model, self.image_hw = model, (image.shape[0], image.shape[1])
        weight = model.classifier.weight
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(weight.device).permute(2, 0, 1)[None]
        with torch.no_grad():
            x = model.input(pixels).to(weight.dtype)
            x = x if input_hw is None else resize(x, input_hw, align_corners=False)
            self.stages: Sequence[Tensor] = model.stages(x)
            self.logits = model.classifier(model.head(self.stages).context)

    @property
    def map_hw(self) -> HW:
        """Size of the logits."""
        return self.logits.shape[2], self.logits.shape[3]

    def attention(self, points: Floats) -> list[AttentionMaps]:
        """Returns the attention of points `q 2` (fractions of height and width): all hops together, then each hop.

        Empty for a head that does not attend.
        """
        head = self.model.head
        if not head.attends:
            return []
        query_hw = head.query_hw(self.stages)
        cells = _cells(points, query_hw)
        rows = attention_rows(head, self.stages, _pixels(cells))
        maps = [] if rows.routing is None else [("all hops", False, rows.routing)]
        maps += [(hop.name, hop.is_signed, hop.rows) for hop in rows.hops]
        return [
            AttentionMaps(
                name,
                "signed" if is_signed else "softmax",
                weights[0].float().cpu().numpy(),
                cells,
                query_hw,
                self.image_hw,
            )
            for name, is_signed, weights in maps
        ]

    def receptive_field(self, points: Floats) -> AttentionMaps:
        """Returns the effective receptive fields of points `q 2`, fractions of height and width."""
        cells = _cells(points, self.map_hw)
        fields = receptive_field(self.model, self.stages, self.logits, _pixels(cells))
        return AttentionMaps(
            RECEPTIVE_FIELD, "gradient", fields.float().cpu().numpy(), cells, self.map_hw, self.image_hw
        )

    def of_pixel(self, pixel: tuple[int, int]) -> dict[str, AttentionRow]:
        """Returns where a pixel (row, column) of the image looks, by measure, the receptive field last.

        Raises ValueError for a pixel outside the image.
        """
        row, column = checked_pixel(pixel, self.image_hw, "image")
        point = (np.array([[row, column]]) + 0.5) / np.array(self.image_hw)
        return {
            maps.name: AttentionRow(
                maps.kind, maps.weights[0], float(maps.entropy_bits()[0]), float(maps.distance_px()[0])
            )
            for maps in (*self.attention(point), self.receptive_field(point))
        }

    def seconds_per_field(self) -> float:
        """Measures the time that the receptive field of one query takes.

        On the CPU it is this thread's own, so that the machine's other work does not make a page coarser.
        """
        clock = time.perf_counter if self.logits.is_cuda else time.thread_time
        for points in (centres((1, 1)), centres((1, queries_per_pass(self.stages)))):
            began = clock()
            self.receptive_field(points)
            seconds = max(1e-9, clock() - began) / len(points)
            if seconds > SLOW_SECONDS:  # one is enough of what takes so long; otherwise the first call only prepares
                break
        return seconds


def grid_hw(map_hw: HW, most: float) -> HW:
    """Returns the finest grid of every s-th row and column of a map that has at most `most` cells; at least 1 x 1."""
    step = 1
    while (hw := (-(-map_hw[0] // step), -(-map_hw[1] // step))) != (1, 1) and hw[0] * hw[1] > most:
        step += 1
    return hw


def _cells(points: Floats, hw: HW) -> npt.NDArray[np.intp]:
    return np.stack([cell_of(points[:, axis], hw[axis]) for axis in (0, 1)], axis=1)


def _pixels(cells: npt.NDArray[np.intp]) -> list[tuple[int, int]]:
    return [(int(row), int(column)) for row, column in cells]


def image_attention(predictor: Predictor, image: Pixels) -> ImageAttention:
    """Returns the attention of an image, u8 `H W 3`, in a trained network."""
    predictor.model.eval()
    hw = (image.shape[0], image.shape[1])
    sizes = input_hws(predictor.recipe.eval, predictor.recipe.data.short_side_px, hw)
    nearest = min(sizes, key=lambda size: abs(size[0] * size[1] - hw[0] * hw[1]), default=None)
    return ImageAttention(predictor.model, image, input_hw=None if nearest == hw else nearest)


@dataclass(frozen=True)
class RunAttention:
    """Attention of a run's network on the images of the split that `evaluation` scored."""

    run: Run
    evaluation: Evaluation
    data: SegmentationData

    @cached_property
    def predictor(self) -> Predictor:
        """The network, built when it is first needed."""
        return predictor_of(self.run)

    def of_image(self, i: int) -> ImageAttention:
        """Returns the attention of image `i` of the split."""
        return image_attention(self.predictor, self.data.read(i).image)

    def averages(self) -> JSONDict:
        """Returns averages over images of the split as JSON; stored in the run's cache.

        {"num_images", "limits", "measures": {NAME: {"kind", "queries", "within": [...], KEYS, "by_class": {CLASS:
        {"queries", KEYS}}}}}. NAME as in `AttentionMaps`. Means are over labelled queries of a regular grid.
        distance: fraction of the image's diagonal; uniform: what equal weights at all positions would give; within:
        the part of the weights within each distance of "limits".
        """
        settings = {"images": NUM_IMAGES, "queries": NUM_QUERIES, "fields": NUM_FIELDS, "seconds": SECONDS}
        key = {"version": VERSION, "evaluation": self.evaluation.key, **settings}
        return self.evaluation.cache.value(NAME, key, JSONDict, self._averages, is_valid=self._are_averages)

    def _are_averages(self, value: JSONDict) -> bool:
        measures = {
            name: {
                "kind": str(own["kind"]),
                **_form(own),
                "within": [None] * len(LIMITS),
                "by_class": {name: _form(own["by_class"][name]) for name in self.data.table.names},
            }
            for name, own in value["measures"].items()
        }
        bits = [own[key] or 0 for own in value["measures"].values() for key in KEYS if "bits" in key]
        form = {"num_images": 0, "limits": [0] * len(LIMITS), "measures": measures}
        return len(measures) > 0 and has_form(value, form) and max(bits) < 64

    def _averages(self) -> JSONDict:
        indices = np.unique(np.linspace(0, len(self.data) - 1, min(NUM_IMAGES, len(self.data))).round().astype(int))
        means: dict[str, _Means] = {}
        most_fields: float | None = None
        with Progress(f"attention of {self.run.folder.name}", len(indices), unit="image") as progress:
            for i in indices:
                image, label = self.of_image(int(i)), self.data.read(int(i)).label
                if most_fields is None:
                    most_fields = min(NUM_FIELDS, SECONDS / image.seconds_per_field())
                maps = image.attention(centres(grid_hw(image.map_hw, NUM_QUERIES)))
                if most_fields >= 1 or not maps:  # at most one field an image where it takes long
                    maps.append(image.receptive_field(centres(grid_hw(image.map_hw, most_fields))))
                fractions: dict[HW, Floats] = {}
                for measure in maps:
                    if measure.hw not in fractions:
                        fractions[measure.hw] = class_fractions(label, self.data.table.num_classes, measure.hw)
                    means.setdefault(measure.name, _Means(measure.kind, [])).add(measure, label, fractions[measure.hw])
                progress.advance()
        return {
            "num_images": len(indices),
            "limits": [round(float(limit), 4) for limit in LIMITS],
            "measures": {name: own.to_dict(self.data.table.names) for name, own in means.items()},
        }


KEYS = (
    "distance",
    "distance_uniform",
    "distance_px",
    "distance_px_uniform",
    "entropy_bits",
    "entropy_bits_uniform",
    "own_class",
    "own_class_uniform",
)


@dataclass(frozen=True)
class _Means:
    """Averages of one measure over images. rows: for each image f64 `q`, the class, then KEYS, then LIMITS."""

    kind: str
    rows: list[Floats]

    def add(self, maps: AttentionMaps, label: Pixels, fractions: Floats) -> None:
        """Adds one image's queries; fractions: of the classes in the map's positions, `k h*w`."""
        diagonal = float(np.hypot(*maps.image_hw))
        classes = label_at(label, (maps.cells + 0.5) / np.array(maps.query_hw))
        uniform = np.full_like(maps.share, 1 / maps.share.shape[1])
        columns = [
            classes,
            maps.distance_px() / diagonal,
            maps.distance.mean(axis=1) / diagonal,
            maps.distance_px(),
            maps.distance.mean(axis=1),
            maps.entropy_bits(),
            entropy_bits(uniform),
            own_class_share(maps.share, fractions, classes),
            own_class_share(uniform, fractions, classes),
        ]
        within = mass_within(maps.share, maps.distance, LIMITS * diagonal)
        self.rows.append(np.concatenate([np.stack(columns, axis=1), within], axis=1))

    def to_dict(self, names: Sequence[str]) -> JSONDict:
        rows = np.concatenate(self.rows)
        rows = rows[(rows[:, 0] != IGNORE) & ~np.isnan(rows[:, 1])]
        within = rows[:, 1 + len(KEYS) :].mean(axis=0) if len(rows) else np.full(len(LIMITS), np.nan)
        classes = {name: rows[rows[:, 0] == k] for k, name in enumerate(names)}
        return {
            "kind": self.kind,
            **_numbers(rows),
            "within": [number_or_none(value) for value in within],
            "by_class": {name: _numbers(own) for name, own in classes.items()},
        }


def _form(numbers: JSONDict) -> JSONDict:
    """Returns the form of `_numbers`: without queries no means."""
    return {"queries": 0} | dict.fromkeys(KEYS, 0 if numbers["queries"] else None)


def _numbers(rows: Floats) -> JSONDict:
    means = rows[:, 1 : 1 + len(KEYS)].mean(axis=0) if len(rows) else np.full(len(KEYS), np.nan)
    return {"queries": len(rows)} | {key: number_or_none(value) for key, value in zip(KEYS, means, strict=True)}
