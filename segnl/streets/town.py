"""The static background of a street: sky, ground, road, sidewalks, verges, houses and gardens."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from segnl.streets.canvas import Box, Camera, Canvas, Draws, Points, colours, mix, nearest, shade
from segnl.streets.pairs import Colour

_SKIES = (  # at the top, at the horizon
    colours("72,128,202 196,216,232"),
    colours("104,150,206 222,228,230"),
    colours("150,162,176 206,210,212"),
    colours("186,190,194 224,224,222"),
    colours("92,112,160 238,196,156"),
    colours("118,132,150 176,182,188"),
)
_FACADES = colours(
    "176,152,124 150,92,74 196,184,162 130,122,116 204,196,188 164,120,92 112,84,74 146,150,152 184,168,132 128,138,128"
)
FOLIAGE = colours("62,92,42 78,104,46 52,80,50 96,108,52 88,96,40")
_GRASS: Colour = (112, 124, 62)
_CLOUD = "0,600 120,250 320,60 600,0 850,200 1000,620 800,1000 200,1000"
_WOOD = "0,1000 0,500 150,150 400,0 600,160 850,60 1000,480 1000,1000"
BUSH = "0,1000 0,640 60,420 180,330 240,150 420,60 520,0 680,70 780,180 840,360 960,470 1000,700 1000,1000"
_NEAREST_M = 1.3  # below the bottom of every image


@dataclass(frozen=True)
class Street:
    """Measures of one street, the canvas that it is painted on, and the draws that decide its look.

    road_m: half the road's width. houses_m: from the middle to the left, right facades.
    verge_m: where a strip of grass begins left, right (0: none). haze: the colour of distant things.
    """

    canvas: Canvas
    draws: Draws
    camera: Camera
    road_m: float
    houses_m: tuple[float, float]
    verge_m: tuple[float, float]
    haze: Colour
    zenith: Colour

    def faded(self, colour: Colour, ahead_m: float) -> Colour:
        """Mixes a colour with the haze by distance."""
        return mix(colour, self.haze, min(170, nearest(ahead_m * 1.7)))

    def drawn(self, colour: Colour, spread: int, ahead_m: float) -> Colour:
        """Draws a colour near this one, as it looks at a distance."""
        return self.faded(self.draws.near(colour, spread), ahead_m)


def plan_street(draws: Draws, hw: tuple[int, int]) -> Street:
    """Draws the measures of a street for an image of hw rows and columns; its canvas is blank."""
    height, width = hw
    vanish_xy = (width * draws.between(42, 58) // 100, height * draws.between(42, 47) // 100)
    camera = Camera(hw, vanish_xy, unit=min(height / 256, width / 512))
    road = draws.between(42, 62) / 10
    houses = (road + draws.between(42, 68) / 10, road + draws.between(42, 68) / 10)
    left_verge, right_verge = (road + 1.7 if draws.chance(45) else 0.0 for _ in houses)
    zenith, haze = draws.pick(_SKIES)
    haze, zenith = draws.near(haze, 8), draws.near(zenith, 12)
    return Street(Canvas(hw), draws, camera, road, houses, (left_verge, right_verge), haze, zenith)


def paint_town(street: Street) -> None:
    """Paints everything of the street that does not move."""
    _sky(street)
    _skyline(street)
    _ground(street)
    _road(street)
    for side, line in zip((-1, 1), street.houses_m, strict=True):
        _row_of_houses(street, side * line)


def _sky(street: Street) -> None:
    canvas, draws, camera = street.canvas, street.draws, street.camera
    surface = canvas.stuff("sky", grain=6)
    horizon = camera.vanish_xy[1]
    part = (np.arange(horizon + 1, dtype=np.int32) * 256 // max(1, horizon))[:, None]
    rows = (np.array(street.zenith, np.int32) * (256 - part) + np.array(street.haze, np.int32) * part) >> 8  # rows 3
    canvas.image[: horizon + 1] = rows.astype(np.uint8)[:, None]
    canvas.owner[: horizon + 1] = surface
    tint = draws.pick(((250, 250, 250), (232, 232, 236), (206, 208, 214)))
    for _ in range(draws.between(0, 4)):
        x, y = draws.below(camera.hw[1]), draws.below(max(1, horizon * 3 // 4))
        for _ in range(draws.between(4, 9)):
            reach = camera.px(draws.between(5, 13))
            spot = Box(x - 2 * reach, y - reach // 2, x + 2 * reach, y + reach // 2)
            if spot.y1 < horizon:
                canvas.shape(spot, _CLOUD, mix(street.zenith, tint, draws.between(110, 190)))
            x += camera.px(draws.between(-16, 20))
            y += camera.px(draws.between(-3, 4))


def _skyline(street: Street) -> None:
    """Paints far houses and woods along the horizon."""
    canvas, draws, camera = street.canvas, street.draws, street.camera
    horizon = camera.vanish_xy[1]
    x = -camera.px(10)
    while x < camera.hw[1]:
        wide, high = camera.px(draws.between(14, 46)), camera.px(draws.between(5, 20))
        box = Box(x, horizon - high, x + wide, horizon + camera.px(3))
        if draws.chance(60):
            canvas.box(box, street.drawn(draws.pick(_FACADES), 14, 70), canvas.stuff("building", 30))
        else:
            canvas.shape(box, _WOOD, street.drawn(draws.pick(FOLIAGE), 10, 60), canvas.stuff("vegetation", 90))
        x += wide * draws.between(60, 100) // 100


def _ground(street: Street) -> None:
    canvas, draws, ground = street.canvas, street.draws, street.camera.ground
    height, width = street.camera.hw
    paving = draws.near((156, 148, 140), 16)
    canvas.box(Box(0, street.camera.vanish_xy[1] + 1, width - 1, height - 1), paving, canvas.stuff("sidewalk", 44))
    for side in (-1, 1):  # joints of the slabs
        ahead = 2.0
        while ahead < 26:
            canvas.polygon(ground(side * street.road_m, side * 16.0, ahead, ahead * 1.012), shade(paving, 88))
            ahead += 1.6 + ahead * 0.12
    for side, begin in zip((-1, 1), street.verge_m, strict=True):
        if begin:
            strip = ground(side * begin, side * (begin + 1.6), _NEAREST_M, 90.0)
            canvas.polygon(strip, draws.near(_GRASS, 12), canvas.stuff("terrain", 96))


def _road(street: Street) -> None:
    canvas, draws, ground = street.canvas, street.draws, street.camera.ground
    road = canvas.stuff("road", 34)
    asphalt = draws.near((98, 98, 102), 18)
    half = street.road_m
    kerbs = ground(-half - 0.22, half + 0.22, _NEAREST_M, 240.0)
    canvas.polygon(kerbs, shade(asphalt, 135), canvas.stuff("sidewalk"))
    canvas.polygon(ground(-half, half, _NEAREST_M, 240.0), asphalt, road)
    for _ in range(draws.between(2, 5)):  # repairs
        side, ahead = draws.between(-40, 30) / 10, draws.between(30, 200) / 10
        if abs(side) + 1.2 < half:
            patch = ground(side, side + draws.between(5, 12) / 10, ahead, ahead * 1.25)
            canvas.polygon(patch, shade(asphalt, draws.between(84, 112)))
    paint = mix(asphalt, (244, 244, 238), 200)
    if draws.chance(70):
        ahead = 2.2 + draws.below(20) / 10
        while ahead < 70:
            canvas.polygon(ground(-0.08, 0.08, ahead, ahead + 2.2), street.faded(paint, ahead))
            ahead += 5.0
    if draws.chance(60):
        edges = [ground(side * (half - 0.45), side * (half - 0.3), _NEAREST_M, 120.0) for side in (-1, 1)]
        canvas.paint(edges, paint)
    if draws.chance(25):
        ahead = draws.between(110, 220) / 10
        left_sides = [x / 10 for x in range(nearest(-half * 10) + 5, nearest(half * 10) - 8, 10)]
        bars = [ground(left, left + 0.5, ahead, ahead + 2.6) for left in left_sides]
        canvas.paint(bars, street.faded(paint, ahead))
    if draws.chance(25):
        side = draws.pick((-1, 1))
        near = draws.between(30, 90) / 10
        lane = ground(side * half, side * (half - 1.9), near, near + 14)
        canvas.polygon(lane, shade(asphalt, 88), canvas.stuff("parking", 34))


def _row_of_houses(street: Street, line: float) -> None:
    """Paints one side of the street, the farthest house first, so that nearer ones cover it. line: of the facades."""
    marks = [4.0]
    while marks[-1] < 75:
        marks.append(marks[-1] + street.draws.between(60, 130) / 10)
    for near, far in reversed(list(pairwise(marks))):
        if street.draws.chance(80):
            _house(street, line, near, far)
        else:
            _gap(street, line, near, far)


def _house(street: Street, line: float, near: float, far: float) -> None:
    canvas, draws, point = street.canvas, street.draws, street.camera.point
    floors = draws.between(1, 3)
    storey = draws.between(27, 32) / 10
    top = floors * storey + 0.6
    wall = draws.near(draws.pick(_FACADES), 14)
    faded = street.faded(wall, near)
    building = canvas.stuff("building", 36)
    roof = draws.pick(((122, 66, 52), (84, 80, 84), (102, 76, 60)))
    eaves, back = point(line, top, near), line * 1.8
    if draws.chance(65):
        ridge_m = line * 1.3, top + 1.6
        ridge = point(*ridge_m, near)
        slope = [eaves, ridge, point(*ridge_m, far), point(line, top, far)]
        canvas.polygon(slope, street.faded(roof, near), building)
        canvas.polygon([eaves, ridge, point(back, top, near)], shade(faded, 78), building)
    gable = [point(line, 0, near), eaves, point(back, top, near), point(back, 0, near)]
    canvas.polygon(gable, shade(faded, 80), building)
    canvas.polygon(street.camera.upright(line, 0, top, near, far), faded, building)
    canvas.polygon(street.camera.upright(line, 0, 0.5, near, far), shade(faded, 74))
    if near >= 55:
        return

    glass = street.drawn(draws.pick(((52, 60, 72), (78, 92, 108), (40, 42, 48))), 10, near)
    frame = street.faded(mix(wall, (240, 238, 230), draws.between(40, 170)), near)
    columns = max(1, nearest((far - near) / 2.4))
    step = (far - near) / columns
    wide, high = draws.between(40, 56) / 100, draws.between(48, 60) / 100
    panes: list[Points] = []
    frames: list[Points] = []
    for floor in range(floors):
        shop = floor == 0 and draws.chance(35)
        low = floor * storey + (0.45 if shop else 0.3 * storey)
        up = low + storey * (0.72 if shop else high)
        fill = 0.9 if shop else wide
        for column in range(columns):
            first = near + step * (column + (1 - fill) / 2)
            last = first + step * fill
            panes.append(street.camera.upright(line, low, up, first, last))
            edge = 0.14
            frames.append(street.camera.upright(line, low - edge, up + edge, first - edge, last + edge))
    if near < 34:
        canvas.paint(frames, frame)
    canvas.paint(panes, glass)


def _gap(street: Street, line: float, near: float, far: float) -> None:
    """Paints a garden between two houses: grass, bushes, and a wall or a fence towards the street."""
    canvas, draws, upright = street.canvas, street.draws, street.camera.upright
    lawn = street.camera.ground(line, line * 2.4, near, far)
    canvas.polygon(lawn, draws.near(_GRASS, 14), canvas.stuff("terrain", 96))
    bushes = canvas.stuff("vegetation", 130)
    for _ in range(5):
        ahead = near + (far - near) * draws.between(30, 100) / 100
        high = draws.between(20, 55) / 10
        spot = street.camera.front(line * draws.between(115, 170) / 100, ahead, high, high)
        leaf = street.drawn(draws.pick(FOLIAGE), 12, ahead)
        canvas.shape(spot, BUSH, leaf, bushes)
        canvas.shape(spot.inner(150, 80, 700, 560), BUSH, shade(leaf, 118))
    if draws.chance(50):
        stone, wall = street.drawn((150, 128, 112), 14, near), canvas.stuff("wall", 60)
        canvas.polygon(upright(line, 0, 1.5, near, far), stone, wall)
        canvas.polygon(upright(line, 1.5, 1.62, near, far), shade(stone, 122), wall)
        return
    # The gaps of the fence are labelled fence too, as in real labels.
    canvas.polygon(upright(line, 0.1, 1.3, near, far), street.faded((92, 96, 72), near), canvas.stuff("fence", 60))
    lath = street.drawn((138, 104, 74), 16, near)
    count = nearest((far - near) / 0.55)
    step = (far - near) / count
    starts = [near + step * index for index in range(count)]
    canvas.paint([upright(line, 0.1, 1.35, start, start + step * 0.5) for start in starts], lath)
