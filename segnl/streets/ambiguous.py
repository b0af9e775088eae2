"""Ambiguous objects and their cues: placement and painting (pairs.py explains pair, livery, cue and mark).

The painter of an object does not know its class; only the painter of its cue does, from the mark that it paints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from segnl.streets.canvas import Box, Draws, Surface, nearest, shade
from segnl.streets.pairs import BLACK_MARK, PAIRS, WHITE_MARK, AmbiguousPair, Colour
from segnl.streets.town import FOLIAGE, Street

_NEAR, _FAR_ENOUGH = 70, 100  # pixels of a 256x512 image from an object to its cue: at least, and if it can be


@dataclass(frozen=True)
class Placement:
    """One ambiguous object and its cue. pair_number: 1.., its place in PAIRS. livery: 0 or 1. mark: 0 white, 1 black.

    The mark is also the place of the object's class in the pair.
    """

    pair_number: int
    livery: int
    mark: int
    box: Box
    cue: Box

    @property
    def pair(self) -> AmbiguousPair:
        return PAIRS[self.pair_number - 1]

    @property
    def class_name(self) -> str:
        """The Cityscapes name of the object's class."""
        return self.pair.classes[self.mark]

    @property
    def colour(self) -> Colour:
        """The livery's colour."""
        return self.pair.liveries[self.livery][1]

    @property
    def is_aligned(self) -> bool:
        """Whether the cue's centre lies within the object's rows or within its columns."""
        x, y = self.cue.centre
        return self.box.x0 <= x <= self.box.x1 or self.box.y0 <= y <= self.box.y1

    @property
    def distance_px(self) -> float:
        """Distance between the centres of the object and its cue."""
        (x, y), (cue_x, cue_y) = self.box.centre, self.cue.centre
        return float(((x - cue_x) ** 2 + (y - cue_y) ** 2) ** 0.5)


def plan_ambiguous(street: Street, marks: Draws) -> list[Placement]:
    """Places objects of two or three pairs, one or two each, with their cues, without overlap.

    The street's draws decide everything visible of an object; marks decides only its class. The classes of a pair's two
    objects differ two times out of three.
    """
    draws = street.draws
    placed: list[Placement] = []
    missing_pairs = draws.between(2, 3)
    for pair_number in draws.shuffled(range(1, len(PAIRS) + 1)):
        first_livery = draws.below(2)
        first_mark, differs = marks.below(2), marks.below(3) < 2
        objects = 0
        for livery in (first_livery, 1 - first_livery)[: 2 if draws.below(3) < 2 else 1]:
            mark = first_mark if objects == 0 else first_mark ^ int(differs)
            placement = _place(street, placed, pair_number, livery, mark)
            if placement:
                placed.append(placement)
                objects += 1
        missing_pairs -= objects > 0
        if missing_pairs == 0:
            break
    return placed


def _place(street: Street, placed: Sequence[Placement], pair_number: int, livery: int, mark: int) -> Placement | None:
    """Finds a free box and a free cue for an object; None where the street has no space for it.

    Half of the cues should be on the row or column of their object, the others off both. A cue that is not so, or not
    far enough, is kept in case no better one is found.
    """
    px, pair = street.camera.px, PAIRS[pair_number - 1]
    taken = [box.grown(px(4)) for earlier in placed for box in (earlier.box, earlier.cue)]
    wants_aligned = street.draws.chance(50)
    spare: Placement | None = None
    for _ in range(8):
        box = _object_box(street, pair)
        if any(box.overlap(used) for used in taken):
            continue
        for attempt in range(20):
            cue = _cue_box(street, pair, box, attempt, wants_aligned=wants_aligned)
            candidate = Placement(pair_number, livery, mark, box, cue)
            if candidate.distance_px < px(_NEAR):
                continue
            if any(cue.overlap(used) for used in [*taken, box.grown(px(4))]) or not _fits(street, pair, cue):
                continue
            if candidate.is_aligned == wants_aligned and candidate.distance_px >= px(_FAR_ENOUGH):
                return candidate
            if spare is None or (candidate.is_aligned == wants_aligned) > (spare.is_aligned == wants_aligned):
                spare = candidate
    return spare


def _object_box(street: Street, pair: AmbiguousPair) -> Box:
    """Draws a box within the image's columns that stands on the ground."""
    draws, camera = street.draws, street.camera
    percent = draws.between(88, 112)
    high, wide = (max(4, camera.px(length) * percent // 100) for length in pair.hw)
    base = camera.vanish_xy[1] + nearest(high * camera.height_m / pair.height_m)
    left = draws.between(2, max(2, camera.hw[1] - wide - 2))
    return Box(left, base - high + 1, left + wide - 1, base)


def _cue_box(street: Street, pair: AmbiguousPair, box: Box, attempt: int, *, wants_aligned: bool) -> Box:
    """Draws a place for a cue; wants_aligned: on the object's row or column."""
    draws, camera = street.draws, street.camera
    height, width = camera.hw
    horizon = camera.vanish_xy[1]
    high, wide = (max(4, camera.px(length)) for length in pair.cue_hw)
    top, bottom = {
        "sky": (2, horizon - high),
        "road": (horizon + camera.px(22), height - camera.px(26) - high),
        "building": (2, horizon + camera.px(4) - high // 2),
        "traffic sign": (2, horizon + camera.px(8) - high // 2),
    }[pair.on]
    x, y = draws.between(2, max(2, width - wide - 3)), draws.between(top, max(top, bottom))
    if wants_aligned and attempt % 2:
        x = draws.between(box.x0, box.x1) - wide // 2
    elif wants_aligned:
        y = min(max(draws.between(box.y0, box.y1) - high // 2, top), max(top, bottom))
    x = min(max(x, 2), max(2, width - wide - 3))
    return Box(x, y, x + wide - 1, y + high - 1)


def _fits(street: Street, pair: AmbiguousPair, cue: Box) -> bool:
    """Whether the whole cue lies on its own class; a traffic sign may stand before anything."""
    height, width = street.camera.hw
    if cue.x0 < 0 or cue.y0 < 0 or cue.x1 >= width or cue.y1 >= height:
        return False
    if pair.on == "traffic sign":
        return True
    owner = street.canvas.owner[cue.y0 : cue.y1 + 1 : 2, cue.x0 : cue.x1 + 1 : 2]
    return bool((owner == street.canvas.stuff(pair.on)).all())


def paint_object(street: Street, placement: Placement, number: int) -> None:
    """Paints the object from its pair, its livery and the draws alone. number: of the placement, 1.."""
    paint, grain = _OBJECTS[placement.pair.name]
    surface = street.canvas.add(Surface("", grain, placement=number))
    paint(street, placement.box, placement.colour, surface)


def paint_cue(street: Street, placement: Placement) -> None:
    """Paints the cue with the mark, and a sign's pole."""
    canvas, cue, on = street.canvas, placement.cue, placement.pair.on
    mark = BLACK_MARK if placement.mark else WHITE_MARK
    if on == "traffic sign":
        _pole(street, cue)
    outline, mark_outline = _CUES[on]
    canvas.shape(cue, outline, placement.colour, canvas.stuff(on))
    if mark_outline:
        canvas.shape(cue, mark_outline, mark)
    else:
        canvas.disc(cue.centre, max(1, (cue.x1 - cue.x0) * 32 // 100), mark)
    if on == "sky":
        canvas.shape(cue, "400,890 600,890 580,1000 420,1000", (96, 70, 48), canvas.stuff(on))  # the balloon's basket


_CUES = {
    "traffic sign": ("60,0 940,0 1000,60 1000,940 940,1000 60,1000 0,940 0,60", ""),
    "sky": (
        "500,0 800,60 960,220 1000,420 900,620 600,860 400,860 100,620 0,420 40,220 200,60",
        "250,160 750,160 830,400 740,580 600,690 400,690 260,580 170,400",
    ),
    "road": ("120,0 880,0 1000,1000 0,1000", "500,120 720,300 840,840 500,700 160,840 280,300"),
    "building": ("0,0 1000,0 1000,1000 500,900 0,1000", "500,110 840,300 840,600 500,790 160,600 160,300"),
}
"""Outlines of the cue and of its mark, by the class that the cue lies on; a sign's mark is a disc."""


def _pole(street: Street, cue: Box) -> None:
    """Paints a sign's pole to the ground, or, over the road, an arm and a pole at the kerb."""
    canvas, camera, steel = street.canvas, street.camera, (104, 106, 108)
    surface = canvas.stuff("pole", 16)
    ahead, thick = 10.0, camera.px(4)
    kerb_m = street.road_m + 0.5
    x, foot_m = cue.centre[0], camera.side_of_column(cue.centre[0], ahead)
    if abs(foot_m) < kerb_m:
        x = camera.point(kerb_m if foot_m > 0 else -kerb_m, 0, ahead)[0]
        y = cue.y0 + camera.px(4)
        canvas.box(Box(min(x, cue.x0), y, max(x, cue.x1), y + thick - 1), steel, surface)
    foot = camera.point(0, 0, ahead)[1]
    canvas.box(Box(x - thick // 2, cue.y0 + camera.px(2), x - thick // 2 + thick - 1, foot), steel, surface)


def _vehicle(street: Street, box: Box, livery: Colour, surface: int) -> None:
    canvas, body = street.canvas, street.draws.near(livery, 8)
    for x in (80, 760):
        canvas.box(box.inner(x, 880, x + 160, 1000), (22, 22, 24), surface)
    canvas.shape(box, "0,60 40,0 960,0 1000,60 1000,930 0,930", body, surface)
    canvas.box(box.inner(0, 60, 1000, 110), shade(body, 76))
    for x in (60, 380, 700):
        canvas.box(box.inner(x, 190, x + 240, 420), (50, 58, 66))
    for y in (520, 640, 760):
        canvas.box(box.inner(40, y, 960, y + 26), shade(body, 84))
    canvas.box(box.inner(0, 850, 1000, 930), (60, 60, 62))
    canvas.box(box.inner(400, 862, 600, 912), (220, 218, 206))


def _mound(street: Street, box: Box, livery: Colour, surface: int) -> None:
    canvas, draws = street.canvas, street.draws
    green = draws.near(draws.pick(FOLIAGE), 10)
    outline = "0,1000 10,700 70,420 180,200 330,60 520,0 700,70 850,240 950,480 990,720 1000,1000"
    canvas.shape(box, outline, green, surface)
    canvas.shape(box.inner(120, 90, 760, 600), outline, shade(green, 112))
    radius = max(1, (box.y1 - box.y0) // 15)
    for row in range(4):
        flowers = 9 - abs(row - 3)
        for column in range(flowers):
            x = 500 + (column * 2 - (flowers - 1)) * 56 + draws.between(-22, 22)
            canvas.disc(box.at(x, 270 + row * 190 + draws.between(-30, 30)), radius, draws.near(livery, 6))


def _caped(street: Street, box: Box, livery: Colour, surface: int) -> None:
    canvas, cape = street.canvas, street.draws.near(livery, 8)
    for leg in ("330,860 460,860 450,1000 290,1000", "540,860 680,860 720,1000 560,1000"):
        canvas.shape(box, leg, (40, 40, 46), surface)
    canvas.shape(box, "330,190 420,150 590,150 680,190 860,560 1000,900 0,900 150,560", cape, surface)
    for x in (300, 620):
        canvas.shape(box, f"{x + 90},300 {x + 130},300 {x + 90},880 {x},880", shade(cape, 80))
    head = "380,50 460,0 560,0 640,50 630,130 560,180 460,180 390,130"
    canvas.shape(box, head, (206, 162, 132), surface)
    canvas.shape(box, "360,70 440,0 580,0 660,80 620,60 400,60", shade(cape, 70), surface)


def _panels(street: Street, box: Box, livery: Colour, surface: int) -> None:
    canvas, draws = street.canvas, street.draws
    grey = draws.near((134, 134, 132), 10)
    canvas.box(box, grey, surface)
    strip = draws.near(livery, 8)
    for x in range(0, 1000, 125):
        canvas.box(box.inner(x, 0, x + 12, 1000), shade(grey, 70))
        canvas.box(box.inner(x + 45, 160, x + 88, 860), strip)
    canvas.box(box.inner(0, 0, 1000, 90), strip)
    canvas.box(box.inner(0, 930, 1000, 1000), shade(grey, 62))


_OBJECTS = {
    "bus-truck": (_vehicle, 24),
    "vegetation-terrain": (_mound, 110),
    "rider-person": (_caped, 24),
    "wall-fence": (_panels, 50),
}
"""Painters by the name of the pair, with the grain of what they paint."""
