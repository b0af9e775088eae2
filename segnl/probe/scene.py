"""Images of the context probe: a grey patch, the target, has the class that a cue elsewhere in the image shows.

reach          one cue; its colour is the class of every target
association    a cue of every class, each with a mark of another hue; a target has the class of the cue with its hue
counting       nine cues; the most frequent colour is the class of every target

An image is a grid of square cells, and cues and targets fill a cell each. In the label, all but the targets is ignored.
A scene is a pure function of its layout, seed, split and index. Imports no torch.
"""

import colorsys
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from segnl.core import IGNORE
from segnl.core.arrays import Counts, Pixels
from segnl.core.seeds import seed_for

VERSION = 1
"""Incremented when the same settings give other pixels."""
Task = Literal["reach", "association", "counting"]
TASKS: tuple[Task, ...] = get_args(Task)
COLOURS = {"red": (214, 60, 50), "green": (46, 160, 67), "blue": (52, 92, 214)}
"""RGB of the cues by class."""
NUM_CLASSES = len(COLOURS)
CHANCE = 1 / NUM_CLASSES
"""Expected accuracy on the targets of a network that sees no cue, whatever the task."""
AMBIGUOUS = 0.04
"""Fraction of cues that are half of another class's colour. No head can be right on all of them, so that even the best
ones differ between seeds: without a spread over seeds there is no interval."""
NUM_MARKS = 12
"""Hues of the marks in the association task."""
COUNTS = ((5, 2, 2), (4, 3, 2))
"""Numbers of cues of the most frequent, the second and the third colour in the counting task."""
GREY = 205
"""Brightness of a target."""
NOISE = 12
"""Half the range of the uniform noise on cues and targets."""
BACKGROUND = (60, 150)
"""Range of the background's brightness."""


class Layout(NamedTuple):
    """Settings of a scene.

    grid_hw: rows and columns of cells. on_cross: expected fraction of targets in the row or column of their cue; None
    draws all offsets between target and cue equally often.
    """

    task: Task
    grid_hw: tuple[int, int]
    cell_px: int
    num_targets: int
    on_cross: float | None


@dataclass(frozen=True)
class Scene:
    """One image. image: u8 `H W 3`. label: u8 `H W`, classes of the targets' pixels, 255 elsewhere.

    targets: row and column of the targets' cells, int64 `n 2`. offsets: the cell of each target's cue minus its own,
    int64 `n 2`; None for the counting task.
    """

    image: Pixels
    label: Pixels
    targets: Counts
    offsets: Counts | None


def render_scene(layout: Layout, *, seed: int, split: str, index: int) -> Scene:
    """Returns image number `index` of a split."""
    random = np.random.default_rng(seed_for(seed, "probe", split, index))
    h, w, px = *layout.grid_hw, layout.cell_px
    image = random.integers(*BACKGROUND, (h * px, w * px, 1), dtype=np.uint8).repeat(3, axis=2)
    label = np.full((h * px, w * px), IGNORE, np.uint8)
    cues, classes = _cues(layout, random)
    targets, cue_of = _targets(layout, cues, random)
    target_classes = classes[cue_of]
    if layout.task == "counting":
        target_classes = np.full(len(targets), np.bincount(classes).argmax())

    colours = np.array(list(COLOURS.values()), np.float64)
    blend = 0.5 * (random.random((len(cues), 1)) < AMBIGUOUS)
    others = (classes + random.integers(1, NUM_CLASSES, len(cues))) % NUM_CLASSES
    cue_rgb = (1 - blend) * colours[classes] + blend * colours[others]
    rgb = np.concatenate([cue_rgb, np.full((len(targets), 3), float(GREY))])
    patches = np.broadcast_to(rgb[:, None, None], (len(rgb), px, px, 3)).copy()
    if layout.task == "association":
        marks = _MARK_RGB[random.permutation(NUM_MARKS)[:NUM_CLASSES]]
        patches[:, :, px // 2 :] = np.concatenate([marks, marks[cue_of]])[:, None, None]
    patches += random.integers(-NOISE, NOISE + 1, patches.shape)
    cells = np.concatenate([cues, targets])
    image.reshape(h, px, w, px, 3).swapaxes(1, 2)[cells[:, 0], cells[:, 1]] = patches.clip(0, 255).astype(np.uint8)
    label.reshape(h, px, w, px).swapaxes(1, 2)[targets[:, 0], targets[:, 1]] = target_classes[:, None, None]
    return Scene(image, label, targets, None if layout.task == "counting" else cues[cue_of] - targets)


_MARK_RGB = np.array([colorsys.hsv_to_rgb(mark / NUM_MARKS, 1.0, 1.0) for mark in range(NUM_MARKS)]) * 255


def _cues(layout: Layout, random: np.random.Generator) -> tuple[Counts, Counts]:
    """Draws cells `n 2` and classes `n` of the cues."""
    h, w = layout.grid_hw
    if layout.task == "counting":
        classes = np.repeat(random.permutation(NUM_CLASSES), COUNTS[random.integers(len(COUNTS))])
    else:
        classes = random.permutation(NUM_CLASSES)[: NUM_CLASSES if layout.task == "association" else 1]
    places: list[int] = []
    while len(places) < len(classes):
        row, column = (
            (random.integers(h), random.integers(w))
            if layout.on_cross is not None
            else (_coordinate(h, random), _coordinate(w, random))
        )
        if row * w + column not in places:
            places.append(int(row * w + column))
    return np.stack(np.divmod(places, w), axis=-1), classes


def _coordinate(length: int, random: np.random.Generator) -> int:
    """Draws a cue's row (or column) such that offsets can be equally frequent: an offset first, then where it fits.

    Cues near the border, which alone have targets far away, become more frequent.
    """
    offset = int(random.integers(1 - length, length))
    return int(random.integers(max(0, offset), min(length, length + offset)))


def _targets(layout: Layout, cues: Counts, random: np.random.Generator) -> tuple[Counts, Counts]:
    """Draws cells `n 2` of the targets, all different, and the index `n` of each target's cue."""
    h, w = layout.grid_hw
    rows, columns = np.abs(np.arange(h) - cues[:, :1]), np.abs(np.arange(w) - cues[:, 1:])  # cues h, cues w
    if layout.on_cross is None:
        # d rows apart fit h - d pairs of cells, so distant cells are drawn more often.
        weights = (1 / (h - rows))[:, :, None] * (1 / (w - columns))[:, None]
    else:
        is_cross = (rows == 0)[:, :, None] | (columns == 0)[:, None]
        num_cross = h + w - 2
        num_off = h * w - 1 - num_cross
        weights = np.where(is_cross, layout.on_cross / num_cross, (1 - layout.on_cross) / num_off)
    weights[:, cues[:, 0], cues[:, 1]] = 0
    flat = weights.reshape(len(cues), -1)
    flat = flat / flat.sum(axis=1, keepdims=True)
    # The smallest of exponential variables with these rates: a draw without replacement of (cue, cell).
    with np.errstate(divide="ignore"):
        arrival = random.standard_exponential(flat.shape) / flat
    cue_of_cell, first = arrival.argmin(axis=0), arrival.min(axis=0)
    places = np.argpartition(first, layout.num_targets)[: layout.num_targets]
    return np.stack(np.divmod(places, w), axis=-1), cue_of_cell[places]
