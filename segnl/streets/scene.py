"""One street: town, traffic, ambiguous objects and camera effects; image and labels together."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from segnl.core.arrays import Pixels
from segnl.core.seeds import seed_for
from segnl.labels.cityscapes import LABELS
from segnl.streets import furniture, traffic
from segnl.streets.ambiguous import Placement, ahead_of, paint_cue, paint_object, plan_ambiguous
from segnl.streets.canvas import Box, Canvas, Draws, shade
from segnl.streets.light import finish
from segnl.streets.town import Street, paint_town, plan_street

VERSION = 1
"""Increases whenever any pixel of any street changes."""

_LABELS = {label.name: label for label in LABELS}

Place = tuple[float, float]
Painter = Callable[[Canvas, Draws, Street, Place], None]


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


@dataclass(frozen=True)
class _Prop:
    """An object in the street. hold: the pixels it may cover. ahead: metres."""

    paint: Callable[[], None]
    hold: Box
    ahead: float


def render_scene(*, seed: int, split: str, index: int, hw: tuple[int, int], marks_seed: int | None = None) -> Scene:
    """Renders street number `index` of a split, a pure function of its arguments.

    marks_seed: seed of the ambiguous objects' classes alone (None: `seed`).
    """
    draws = Draws(seed_for(seed, "streets", split, index))
    marks = Draws(seed_for(seed if marks_seed is None else marks_seed, "marks", split, index))
    canvas = Canvas(hw)
    street = plan_street(draws, hw)
    paint_town(canvas, draws, street)
    placements = plan_ambiguous(canvas, draws, marks, street)
    for placement in placements:
        if placement.pair.on != "traffic sign":
            paint_cue(canvas, street, placement)
    _populate(canvas, draws, street, placements, index)
    for placement in placements:  # last: a sign covers the objects behind it
        if placement.pair.on == "traffic sign":
            paint_cue(canvas, street, placement)
    _margins(canvas, draws, street)
    return _resolve(canvas, draws, placements)


def _populate(canvas: Canvas, draws: Draws, street: Street, placements: Sequence[Placement], index: int) -> None:
    """Paints props and ambiguous objects, the farthest first, without props that hide a cue or much of an object."""
    props = [*_scheduled(canvas, draws, street, index), *_passing(canvas, draws, street)]
    queue = [(prop.ahead, order, prop.paint) for order, prop in enumerate(props) if _is_clear(prop, street, placements)]
    for order, placement in enumerate(placements):
        ahead = ahead_of(placement, street)
        queue.append((ahead, -1 - order, partial(paint_object, canvas, draws, placement, order + 1)))
    for _, _, paint in sorted(queue, key=lambda entry: (-entry[0], entry[1])):
        paint()


def _is_clear(prop: _Prop, street: Street, placements: Sequence[Placement]) -> bool:
    """Whether a prop hides no cue and at most an eighth of any ambiguous object behind it."""
    for placement in placements:
        if prop.hold.overlap(placement.cue.grown(street.camera.px(3))):
            return False
        is_before = prop.ahead < ahead_of(placement, street)
        if is_before and prop.hold.overlap(placement.box) * 8 > placement.box.area:
            return False
    return True


_SIZES: dict[str, tuple[float, float, float]] = {  # width, height, length in metres
    "car": (1.8, 1.5, 4.2),
    "truck": (2.4, 3.2, 7.0),
    "bus": (2.5, 3.0, 10.0),
    "train": (2.4, 3.3, 22.0),
    "person": (0.8, 1.9, 0.3),
    "cyclist": (1.7, 1.8, 0.3),
    "bicycle": (1.7, 1.1, 0.3),
    "motorcycle": (2.0, 1.3, 0.3),
    "tree": (4.4, 7.0, 0.3),
    "bush": (2.4, 1.5, 0.3),
    "lamp": (2.8, 7.4, 0.3),
    "traffic_light": (0.5, 3.6, 0.3),
    "traffic_sign": (0.9, 2.8, 0.3),
    "bin_": (0.5, 1.0, 0.3),
    "barrier": (0.2, 1.1, 7.0),
}


def _prop(canvas: Canvas, draws: Draws, street: Street, name: str, place: Place) -> _Prop:
    painter: Painter = getattr(traffic, name, None) or getattr(furniture, name)
    width, height, length = _SIZES[name]
    near = street.camera.front(place[0], place[1], width, height)
    far = street.camera.front(place[0], place[1] + length, width, height)
    hold = Box(min(near.x0, far.x0), min(near.y0, far.y0), max(near.x1, far.x1), max(near.y1, far.y1))
    return _Prop(lambda: painter(canvas, draws, street, place), hold, place[1])


_SCHEDULE = ("train", "motorcycle", "cyclist", "truck", "bicycle", "bus", "traffic_light", "barrier", "person", "car")


def _scheduled(canvas: Canvas, draws: Draws, street: Street, index: int) -> list[_Prop]:
    """Returns two props chosen by the index, at two places each, so that ten images in a row show all classes."""
    props = []
    for name in (_SCHEDULE[index % 10], _SCHEDULE[(index * 3 + 1) % 10]):
        props += [_prop(canvas, draws, street, name, _place_for(draws, street, name, (90, 240))) for _ in range(2)]
    return props


def _place_for(draws: Draws, street: Street, name: str, ahead_dm: tuple[int, int]) -> Place:
    """Draws a plausible place for a prop, between two distances in tenths of a metre."""
    side = draws.pick((-1, 1))
    ahead = draws.between(*ahead_dm) / 10
    line = street.houses_m[0] if side < 0 else street.houses_m[1]
    if name in ("car", "truck", "bus"):
        return side * (street.road_m * 0.5 if draws.chance(50) else street.road_m - 1.1), ahead
    if name == "train":
        return side * 1.5, ahead
    if name == "cyclist":
        return side * (street.road_m - draws.between(6, 14) / 10), ahead
    if name in ("traffic_light", "traffic_sign", "lamp", "barrier"):
        return side * (street.road_m + 0.4), ahead
    if name == "tree":
        return side * (street.road_m + draws.between(12, 26) / 10), ahead
    width_dm = max(2, int((line - street.road_m) * 10) - 8)
    return side * (street.road_m + draws.between(5, width_dm) / 10), ahead


def _passing(canvas: Canvas, draws: Draws, street: Street) -> list[_Prop]:
    """Draws random props, most of them far away."""
    near, middle, far = (45, 140), (90, 300), (220, 700)
    crowd: list[tuple[str, int, tuple[int, int]]] = [
        ("car", draws.between(1, 4), middle),
        ("car", draws.between(2, 6), far),
        ("person", draws.between(1, 5), middle),
        ("person", draws.between(1, 5), far),
        ("person", draws.between(0, 1), near),
        ("tree", draws.between(0, 4), middle),
        ("tree", draws.between(1, 6), far),
        ("bush", draws.between(0, 3), middle),
        ("lamp", draws.between(1, 3), middle),
        ("lamp", draws.between(1, 3), far),
        ("lamp", draws.between(0, 1), near),
        ("traffic_sign", draws.between(1, 3), middle),
        ("traffic_sign", draws.between(0, 2), far),
        ("traffic_light", draws.between(0, 2), middle),
        ("traffic_light", draws.between(0, 2), far),
        ("bicycle", draws.between(0, 2), middle),
        ("motorcycle", draws.below(2), middle),
        ("cyclist", draws.between(0, 1), middle),
        ("truck", draws.below(2), far),
        ("bus", draws.below(2), far),
        ("barrier", draws.below(2), middle),
        ("bin_", draws.between(0, 2), middle),
    ]
    return [
        _prop(canvas, draws, street, name, _place_for(draws, street, name, reach))
        for name, count, reach in crowd
        for _ in range(count)
    ]


def _margins(canvas: Canvas, draws: Draws, street: Street) -> None:
    """Paints the ignored border regions: ego vehicle, rectification border, out of roi."""
    height, width = street.camera.hw
    px = street.camera.px
    if draws.chance(80):
        high = px(draws.between(10, 20))
        left, right = -width * draws.between(5, 20) // 100, width * draws.between(105, 120) // 100
        hood = Box(left, height - high, right, height + high)
        paint = draws.near((52, 54, 60), 20)
        canvas.shape(
            hood,
            ((0, 1000), (60, 500), (200, 160), (400, 0), (600, 0), (800, 160), (940, 500), (1000, 1000)),
            paint,
            canvas.stuff("ego vehicle", 12),
        )
        canvas.shape(hood, ((260, 190), (420, 70), (580, 70), (740, 190)), shade(paint, 150))
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


def _resolve(canvas: Canvas, draws: Draws, placements: Sequence[Placement]) -> Scene:
    """Turns surfaces into classes and instances; only here an ambiguous object gets its class."""
    grain = np.array([surface.grain for surface in canvas.surfaces], np.uint8)
    pairs = np.zeros(len(canvas.surfaces), np.uint8)
    labels = np.zeros(len(canvas.surfaces), np.uint8)
    instances = np.zeros(len(canvas.surfaces), np.uint16)
    counts: Counter[str] = Counter()
    for number, surface in enumerate(canvas.surfaces):
        name = surface.name
        if surface.placement:
            placement = placements[surface.placement - 1]
            name, pairs[number] = placement.class_name, placement.pair_number
        label = _LABELS[name]
        labels[number] = instances[number] = label.id
        if label.has_instances:
            instances[number] = label.id * 1000 + counts[name]
            counts[name] += 1
    image = finish(canvas.image, grain[canvas.owner], draws)
    return Scene(image, labels[canvas.owner], instances[canvas.owner], pairs[canvas.owner], tuple(placements))
