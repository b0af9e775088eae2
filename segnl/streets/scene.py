"""One street: town, traffic, ambiguous objects and camera effects; image and labels together.

A clip has frames of a camera that turns past a street; an object and its cue may be in different frames.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from segnl.core.arrays import Pixels
from segnl.core.seeds import seed_for
from segnl.labels.cityscapes import LABELS
from segnl.streets.ambiguous import Placement, paint_cue, paint_object, plan_ambiguous
from segnl.streets.canvas import Box, Draws, shade
from segnl.streets.props import PROPS
from segnl.streets.town import Street, paint_town, plan_street

VERSION = 1
"""Increases whenever any pixel of any street changes."""

_CLIP_TRIES = 200
_LABELS = {label.name: label for label in LABELS}


@dataclass(frozen=True)
class Scene:
    """image: u8 `H W 3` RGB. label_ids: u8 `H W`, Cityscapes' 0..33. instance_ids: u16 `H W`, id or id*1000+n.

    ambiguous: u8 `H W`, the pair 1.. that a pixel's object belongs to, else 0.
    """

    image: Pixels
    label_ids: Pixels
    instance_ids: NDArray[np.uint16]
    ambiguous: Pixels
    placements: tuple[Placement, ...]


def render_scene(*, seed: int, split: str, index: int, hw: tuple[int, int], marks_seed: int | None = None) -> Scene:
    """Renders street number `index` of a split, a pure function of its arguments.

    marks_seed: seed of the ambiguous objects' classes alone (None: `seed`).
    """
    draws = Draws(seed_for(seed, "streets", split, index))
    marks = Draws(seed_for(seed if marks_seed is None else marks_seed, "marks", split, index))
    street = plan_street(draws, hw)
    paint_town(street)
    placements = plan_ambiguous(street, marks)
    for placement in placements:
        if placement.pair.on != "traffic sign":
            paint_cue(street, placement)
    _populate(street, placements, index)
    for placement in placements:  # last: a sign covers the objects behind it
        if placement.pair.on == "traffic sign":
            paint_cue(street, placement)
    _margins(street)
    return _resolve(street, placements)


def render_clip(*, seed: int, split: str, index: int, hw: tuple[int, int], num_frames: int) -> list[Scene]:
    """Renders the frames of clip number `index` of a split, each `hw`, a pure function of its arguments.

    The camera pans over a street of twice the width, by the same number of pixels from frame to frame. `ambiguous`
    marks those objects only whose cue lies wholly outside the frame and wholly inside the one before or after. Every
    clip has at least one of them.
    """
    height, width = hw
    for attempt in range(_CLIP_TRIES):
        street = render_scene(seed=seed, split=f"{split}, clips, {attempt}", index=index, hw=(height, 2 * width))
        step = width // (num_frames - 1)
        starts = [number * step for number in range(num_frames)]
        if seed_for(seed, "direction", split, index) % 2:
            starts.reverse()
        frames = [frame_of(street, starts, number, width) for number in range(num_frames)]
        if any(frame.ambiguous.any() for frame in frames):
            return frames
    raise RuntimeError(
        f"clip {index} of {split}: no street of {_CLIP_TRIES} has an object whose cue is in another frame"
    )


def frame_of(street: Scene, starts: list[int], number: int, width: int) -> Scene:
    """Cuts frame `number` out of the street. starts: the first column of each frame."""
    height = street.image.shape[0]
    view, *beside = (
        Box(starts[other], 0, starts[other] + width - 1, height - 1)
        for other in (number, number - 1, number + 1)
        if 0 <= other < len(starts)
    )
    is_kept = np.zeros(street.ambiguous.shape, bool)
    for placement in street.placements:
        cue = placement.cue
        if not view.overlap(cue) and any(frame.overlap(cue) == cue.area for frame in beside):
            box = placement.box
            is_kept[max(0, box.y0) : box.y1 + 1, max(0, box.x0) : box.x1 + 1] = True
    columns = slice(view.x0, view.x1 + 1)
    return replace(
        street,
        image=np.ascontiguousarray(street.image[:, columns]),
        label_ids=street.label_ids[:, columns],
        instance_ids=street.instance_ids[:, columns],
        ambiguous=np.where(is_kept, street.ambiguous, 0)[:, columns].astype(np.uint8),
        placements=(),
    )


def _populate(street: Street, placements: Sequence[Placement], index: int) -> None:
    """Paints props and ambiguous objects, the farthest first, without props that hide a cue or much of an object."""
    queue: list[tuple[float, int, Callable[[], None]]] = []
    for order, (ahead, extent, paint) in enumerate(_props(street, index)):
        if _is_clear(ahead, extent, street, placements):
            queue.append((ahead, order, paint))
    for order, placement in enumerate(placements):
        ahead = street.camera.ahead_of_row(placement.box.y1)
        queue.append((ahead, -1 - order, partial(paint_object, street, placement, order + 1)))
    for _, _, paint in sorted(queue, key=lambda entry: (-entry[0], entry[1])):
        paint()


def _is_clear(ahead: float, extent: Box, street: Street, placements: Sequence[Placement]) -> bool:
    """Whether a prop hides no cue and at most an eighth of any ambiguous object behind it."""
    for placement in placements:
        if extent.overlap(placement.cue.grown(street.camera.px(3))):
            return False
        is_before = ahead < street.camera.ahead_of_row(placement.box.y1)
        if is_before and extent.overlap(placement.box) * 8 > placement.box.area:
            return False
    return True


_Prop = tuple[float, Box, Callable[[], None]]
"""A prop's distance ahead, the pixels that it may cover, and its painter."""
_SCHEDULE = ("train", "motorcycle", "cyclist", "truck", "bicycle", "bus", "traffic_light", "barrier", "person", "car")


def _props(street: Street, index: int) -> list[_Prop]:
    """Draws the props of a street.

    Two kinds are chosen by the index, at two places each, so that ten images in a row show all classes; the others are
    random, most of them far away.
    """
    draws = street.draws
    kinds = _SCHEDULE[index % 10], _SCHEDULE[(index * 3 + 1) % 10]
    scheduled = [_prop(street, kind, (90, 240)) for kind in kinds for _ in range(2)]
    crowd = [
        (kind, draws.between(least, most), reach)
        for kind, (_, _, groups) in PROPS.items()
        for least, most, reach in groups
    ]
    return scheduled + [_prop(street, kind, reach) for kind, count, reach in crowd for _ in range(count)]


def _prop(street: Street, kind: str, ahead_dm: tuple[int, int]) -> _Prop:
    """Draws a place for a prop. ahead_dm: nearest and farthest, in tenths of a metre."""
    painter, (width, height, length), _ = PROPS[kind]
    side, ahead = _place(street, kind, ahead_dm)
    near = street.camera.front(side, ahead, width, height)
    far = street.camera.front(side, ahead + length, width, height)
    extent = Box(min(near.x0, far.x0), min(near.y0, far.y0), max(near.x1, far.x1), max(near.y1, far.y1))
    return ahead, extent, partial(painter, street, side, ahead)


def _place(street: Street, kind: str, ahead_dm: tuple[int, int]) -> tuple[float, float]:
    """Draws a plausible place for a prop: metres right of the street's middle, metres ahead."""
    draws = street.draws
    side = draws.pick((-1, 1))
    ahead = draws.between(*ahead_dm) / 10
    line = street.houses_m[0] if side < 0 else street.houses_m[1]
    if kind in ("car", "truck", "bus"):
        return side * (street.road_m * 0.5 if draws.chance(50) else street.road_m - 1.1), ahead
    if kind == "train":
        return side * 1.5, ahead
    if kind == "cyclist":
        return side * (street.road_m - draws.between(6, 14) / 10), ahead
    if kind in ("traffic_light", "traffic_sign", "lamp", "barrier"):
        return side * (street.road_m + 0.4), ahead
    if kind == "tree":
        return side * (street.road_m + draws.between(12, 26) / 10), ahead
    width_dm = max(2, int((line - street.road_m) * 10) - 8)
    return side * (street.road_m + draws.between(5, width_dm) / 10), ahead


def _margins(street: Street) -> None:
    """Paints the ignored border regions: ego vehicle, rectification border, out of roi."""
    canvas, draws, px = street.canvas, street.draws, street.camera.px
    height, width = street.camera.hw
    if draws.chance(80):
        high = px(draws.between(10, 20))
        left, right = -width * draws.between(5, 20) // 100, width * draws.between(105, 120) // 100
        hood = Box(left, height - high, right, height + high)
        paint, surface = draws.near((52, 54, 60), 20), canvas.stuff("ego vehicle", 12)
        canvas.shape(hood, "0,1000 60,500 200,160 400,0 600,0 800,160 940,500 1000,1000", paint, surface)
        canvas.shape(hood, "260,190 420,70 580,70 740,190", shade(paint, 150))
    if draws.chance(40):
        rim = canvas.stuff("rectification border", 0)
        wide = px(draws.between(2, 4))
        for x in (0, width - wide):
            canvas.image[:, x : x + wide] //= 4
            canvas.owner[:, x : x + wide] = rim
    edge = px(2)
    outside = canvas.stuff("out of roi", 0)
    canvas.owner[:edge] = canvas.owner[-edge:] = outside
    canvas.owner[:, :edge] = canvas.owner[:, -edge:] = outside


def _resolve(street: Street, placements: Sequence[Placement]) -> Scene:
    """Turns surfaces into classes and instances; only here an ambiguous object gets its class."""
    counts: Counter[str] = Counter()
    rows = []  # of each surface: grain, pair, label id, instance id
    for surface in street.canvas.surfaces:
        name, pair = surface.name, 0
        if surface.placement:
            placement = placements[surface.placement - 1]
            name, pair = placement.class_name, placement.pair_number
        label = _LABELS[name]
        instance = label.id * 1000 + counts[name] if label.has_instances else label.id
        counts[name] += 1
        rows.append((surface.grain, pair, label.id, instance))
    grain, pairs, labels, instances = (np.array(rows, np.uint16).T)[:, street.canvas.owner]
    image = finish(street.canvas.image, grain.astype(np.uint8), street.draws)
    return Scene(image, labels.astype(np.uint8), instances, pairs.astype(np.uint8), tuple(placements))


def finish(image: Pixels, grain: Pixels, draws: Draws) -> Pixels:
    """Adds camera effects to `image` u8 `H W 3`. grain: u8 `H W`, strength of the texture of each pixel's surface."""
    texture = _texture(grain, draws)
    lit = []
    for plane, factor in zip(cv2.split(image), _gains(grain.shape, draws), strict=True):  # planes are fast to process
        rough = np.clip(plane + texture, 0, 255).astype(np.uint16)
        rough *= factor
        rough >>= 7
        lit.append(np.minimum(rough, 255).astype(np.uint8))
    soft = np.asarray(cv2.merge(lit), np.uint8)
    for _ in range(draws.pick((0, 1, 1, 2))):
        soft = blur(soft)
    most = draws.pick((3, 7, 7, 15))
    noise = draws.bytes(grain.shape[0], grain.shape[1] * 3).reshape(soft.shape) & np.uint8(most)
    return np.asarray(cv2.subtract(cv2.add(soft, noise), np.full_like(noise, most // 2 + 1)), np.uint8)  # both saturate


def blur(image: Pixels) -> Pixels:
    """Convolves with 1 2 1 over rows and columns, rounded once, halves upwards; the border is repeated."""
    return np.asarray(cv2.GaussianBlur(image, (3, 3), 0, borderType=cv2.BORDER_REPLICATE), np.uint8)


def _texture(grain: Pixels, draws: Draws) -> NDArray[np.int16]:
    """Draws speckle of one pixel and blotches of about 3 and 8 pixels (of 256 rows), i16 `H W`, +-3/8 of the grain."""
    height, width = grain.shape
    total = draws.bytes(height, width).astype(np.int16)
    for cell in (max(2, height * 3 // 256), max(3, height * 8 // 256)):
        coarse = draws.bytes(height // cell + 1, width // cell + 1).astype(np.int16)
        total += coarse.repeat(cell, axis=0)[:height].repeat(cell, axis=1)[:, :width]
    total -= 382
    total >>= 3  # now +-48, so that 16 bits hold the product with any grain
    total *= grain.astype(np.int16)
    total >>= 7
    return total


def _gains(hw: tuple[int, ...], draws: Draws) -> list[NDArray[np.uint16]]:
    """Draws exposure, warmth and uneven light: gains in 128ths `H W` for red, green and blue."""
    height, width = hw
    exposure = draws.between(190, 280)
    warmth = draws.between(-14, 14)
    knots = np.array([[draws.between(226, 282) for _ in range(3)] for _ in range(2)], np.int32)
    column = np.arange(width, dtype=np.int32) * 512 // max(1, width - 1)
    index = np.minimum(column >> 8, 1)
    part = column - (index << 8)
    rows = (knots[:, index] * (256 - part) + knots[:, index + 1] * part) >> 8  # 2 W
    row = (np.arange(height, dtype=np.int32) * 256 // max(1, height - 1))[:, None]
    gain = ((rows[:1] * (256 - row) + rows[1:] * row) >> 8).astype(np.uint16)  # H W
    # At most 282 * 147 >> 8 = 161, so that 16 bits hold its product with a colour.
    return [gain * np.uint16((exposure + tilt) // 2) >> 8 for tilt in (warmth, 0, -warmth)]
