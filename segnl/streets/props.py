"""Objects of a street that are not ambiguous: vehicles, people, trees, lamps, lights, signs, bins and fences.

A painter takes the street and a place: metres right of the street's middle, and metres ahead.
"""

from collections.abc import Callable

from segnl.streets.canvas import Box, colours, mix, shade
from segnl.streets.pairs import Colour
from segnl.streets.town import BUSH, FOLIAGE, Street

_PAINTS = colours(
    "188,190,192 60,62,66 124,26,30 40,60,104 214,214,210 92,98,104 46,74,60 140,128,108 26,28,32"  # of vehicles
)
_CLOTHES = colours("44,46,58 120,112,100 72,84,72 150,148,150 90,62,54 34,34,36 110,120,138")
_SKIN = colours("222,178,150 172,124,92 112,78,60 236,196,168")
_SIGNS = (colours("168,30,34 232,230,224"), colours("30,60,120 206,212,220"), colours("230,230,226 60,64,70"))
Size = tuple[float, float, float]
"""Width, height and length in metres."""
_TYRE, _GLASS, _STEEL = colours("24,24,26 48,58,68 96,98,100")
_LEAVES = "0,560 90,250 260,160 400,0 640,60 850,160 1000,430 930,760 740,900 560,1000 300,920 90,800"


def _solid(street: Street, side: float, ahead: float, size: Size, colour: Colour, surface: int, up_m: float) -> Box:
    """Paints a block along the street: its visible side, then its rear. Returns the box of the rear."""
    width, height, length = size
    rear = street.camera.front(side, ahead, width, height, up_m)
    front = street.camera.front(side, ahead + length, width, height, up_m)
    if abs(side) > width / 2:
        near_x, far_x = (rear.x0, front.x0) if side > 0 else (rear.x1, front.x1)
        flank = [(near_x, rear.y0), (near_x, rear.y1), (far_x, front.y1), (far_x, front.y0)]
        street.canvas.polygon(flank, shade(colour, 78), surface)
    street.canvas.box(rear, colour, surface)
    return rear


def _shadow(street: Street, side: float, ahead: float, width: float, length: float) -> None:
    half = width / 2 + 0.15
    area = street.camera.ground(side - half, side + half, ahead - 0.2, ahead + length)
    street.canvas.polygon(area, street.faded((46, 46, 50), ahead))


def car(street: Street, side: float, ahead: float) -> None:
    """Paints a car along the street."""
    canvas, draws = street.canvas, street.draws
    surface = canvas.thing("car")
    paint = street.drawn(draws.pick(_PAINTS), 16, ahead)
    tyre, glass = street.faded(_TYRE, ahead), street.faded(_GLASS, ahead)
    _shadow(street, side, ahead, 1.8, 4.2)
    for offset in (-0.72, 0.72):
        canvas.box(street.camera.front(side + offset, ahead, 0.26, 0.36), tyre, surface)
    cabin = _solid(street, side, ahead + 0.5, (1.5, 0.62, 2.4), glass, surface, up_m=0.85)
    canvas.box(cabin.inner(0, 0, 1000, 120), paint, surface)
    rear = _solid(street, side, ahead, (1.8, 0.7, 4.2), paint, surface, up_m=0.24)
    window = Box(rear.x0, cabin.y0, rear.x1, rear.y0)
    canvas.shape(window, "30,1000 170,60 830,60 970,1000", paint, surface)
    canvas.shape(window, "120,900 220,200 780,200 880,900", glass)
    for x in (30, 800):
        light = (196, 36, 32) if side > 0 else (240, 236, 214)
        canvas.box(rear.inner(x, 180, x + 170, 420), street.faded(light, ahead))
    canvas.box(rear.inner(0, 740, 1000, 1000), shade(paint, 60))
    canvas.box(rear.inner(380, 480, 620, 680), street.faded((226, 226, 220), ahead))


def truck(street: Street, side: float, ahead: float) -> None:
    """Paints a lorry: a pale container above a dark frame, the cab in front."""
    canvas = street.canvas
    surface = canvas.thing("truck")
    load = street.drawn((206, 200, 188), 14, ahead)
    _shadow(street, side, ahead, 2.4, 7.0)
    cab = street.drawn((96, 104, 112), 12, ahead)
    _solid(street, side, ahead + 5.2, (2.3, 2.2, 1.8), cab, surface, up_m=0.5)
    _solid(street, side, ahead, (2.2, 0.6, 6.0), street.faded((40, 40, 42), ahead), surface, up_m=0.45)
    for offset in (-0.85, 0.85):
        canvas.box(street.camera.front(side + offset, ahead, 0.5, 0.8), street.faded(_TYRE, ahead), surface)
    rear = _solid(street, side, ahead, (2.4, 2.2, 5.0), load, surface, up_m=1.0)
    canvas.box(rear.inner(485, 0, 515, 1000), shade(load, 82))
    for x in (300, 680):
        canvas.box(rear.inner(x, 60, x + 25, 940), shade(load, 82))


def bus(street: Street, side: float, ahead: float) -> None:
    """Paints a town bus with a large rear window, a line number and a row of windows."""
    _coach(street, side, ahead, "bus", (2.5, 2.9, 10.0), ((236, 226, 196), (166, 38, 36)))


def train(street: Street, side: float, ahead: float) -> None:
    """Paints a tram on its rails; Cityscapes counts trams as trains."""
    for rail in (side - 0.75, side + 0.75):
        street.canvas.polygon(street.camera.ground(rail - 0.05, rail + 0.05, 2.2, 90), (70, 70, 74))
    _coach(street, side, ahead, "train", (2.4, 3.2, 22.0), ((222, 222, 214), (52, 92, 70)))


def _coach(street: Street, side: float, ahead: float, name: str, size: Size, colours: tuple[Colour, Colour]) -> None:
    """Paints a bus or a tram. colours: of its upper and lower half."""
    canvas, front = street.canvas, street.camera.front
    width, height, length = size
    upper, lower = (street.drawn(colour, 10, ahead) for colour in colours)
    glass = street.faded(_GLASS, ahead)
    surface = canvas.thing(name)
    _shadow(street, side, ahead, width, length)
    canvas.box(front(side, ahead, width * 0.86, 0.4), street.faded(_TYRE, ahead), surface)
    _solid(street, side, ahead, (width, height - 0.3, length), upper, surface, up_m=0.3)
    rear = _solid(street, side, ahead, (width, 1.0, length), lower, surface, up_m=0.3)
    if abs(side) > width / 2:
        edge = side - width / 2 if side > 0 else side + width / 2
        panes = []
        first = ahead + 0.6
        while first + 1.5 < ahead + length:
            panes.append(street.camera.upright(edge, 1.6, 2.5, first, first + 1.3))
            first += 1.7
        canvas.paint(panes, shade(glass, 90))
    canvas.box(front(side, ahead, width * 0.84, 1.0, up_m=1.45), glass)
    canvas.box(front(side, ahead, width * 0.5, 0.3, up_m=2.55), street.faded((26, 26, 24), ahead))
    canvas.box(front(side, ahead, width * 0.3, 0.18, up_m=2.6), street.faded((250, 190, 60), ahead))
    for x in (40, 850):
        canvas.box(rear.inner(x, 250, x + 110, 520), street.faded((206, 44, 36), ahead))


def person(street: Street, side: float, ahead: float) -> None:
    """Paints a walking person: legs, trunk, an arm, a head."""
    canvas, draws = street.canvas, street.draws
    box = street.camera.front(side, ahead, 0.72, draws.between(155, 188) / 100)
    surface = canvas.thing("person")
    coat = street.drawn(draws.pick(_CLOTHES), 14, ahead)
    trousers = street.drawn(draws.pick(_CLOTHES), 10, ahead)
    skin = street.faded(draws.pick(_SKIN), ahead)
    swing = draws.between(40, 200)
    left_leg = f"330,480 520,480 {430 - swing},1000 {260 - swing},1000"
    canvas.shape(box, left_leg, shade(trousers, 84), surface)
    canvas.shape(box, f"480,480 690,480 {740 + swing},1000 {560 + swing},1000", trousers, surface)
    canvas.shape(box, "300,200 420,155 590,155 720,200 740,560 280,560", coat, surface)
    canvas.shape(box, "680,210 760,250 880,520 770,540", shade(coat, 84), surface)
    canvas.shape(box, "390,40 450,0 570,0 630,40 620,130 560,165 460,165 400,130", skin, surface)
    canvas.shape(box, "390,60 440,0 580,0 640,70 600,50 430,50", street.faded((52, 38, 30), ahead))


def bicycle(street: Street, side: float, ahead: float) -> None:
    """Paints a bicycle seen from its side; the wheels are labelled as full discs, as in Cityscapes."""
    canvas, draws = street.canvas, street.draws
    box = street.camera.front(side, ahead, 1.6, 1.0)
    surface = canvas.thing("bicycle")
    frame, tyre = street.drawn(draws.pick(_PAINTS), 20, ahead), street.faded(_TYRE, ahead)
    radius = max(1, (box.y1 - box.y0) * 33 // 100)
    for x in (210, 790):
        centre = (box.at(x, 0)[0], box.y1 - radius)
        canvas.disc(centre, radius, tyre, surface)
        canvas.disc(centre, radius * 3 // 4, mix(tyre, (168, 166, 160), 150))
    canvas.shape(box, "190,640 370,250 660,250 700,330 440,330 270,700", frame, surface)
    canvas.shape(box, "440,640 640,260 700,260 820,660 740,660 660,400 520,700", frame, surface)
    canvas.shape(box, "280,180 440,160 440,240 280,240", tyre, surface)
    canvas.shape(box, "610,100 760,60 770,130 690,160 690,290 630,290", frame, surface)


def motorcycle(street: Street, side: float, ahead: float) -> None:
    """Paints a motorcycle seen from its side."""
    canvas, draws = street.canvas, street.draws
    box = street.camera.front(side, ahead, 1.9, 1.15)
    surface = canvas.thing("motorcycle")
    body, tyre = street.drawn(draws.pick(_PAINTS), 20, ahead), street.faded(_TYRE, ahead)
    radius = max(1, (box.y1 - box.y0) * 28 // 100)
    for x in (180, 820):
        centre = (box.at(x, 0)[0], box.y1 - radius)
        canvas.disc(centre, radius, tyre, surface)
        canvas.disc(centre, radius // 2, mix(tyre, (180, 180, 180), 110))
    canvas.shape(box, "200,700 330,420 560,300 760,420 800,640 600,820 380,820", shade(body, 64), surface)
    canvas.shape(box, "420,400 560,200 720,260 760,460 500,520", body, surface)
    canvas.shape(box, "60,400 120,300 440,340 430,450", tyre, surface)
    canvas.shape(box, "690,260 660,20 720,0 860,660 790,660", shade(body, 80), surface)


def cyclist(street: Street, side: float, ahead: float) -> None:
    """Paints a rider on a bicycle: two instances, the rider in front of the frame."""
    bicycle(street, side, ahead)
    canvas, draws = street.canvas, street.draws
    rider = canvas.thing("rider")
    box = street.camera.front(side, ahead, 1.1, 1.45, up_m=0.25)
    coat = street.drawn(draws.pick(_CLOTHES), 16, ahead)
    legs = street.drawn(draws.pick(_CLOTHES), 10, ahead)
    skin = street.faded(draws.pick(_SKIN), ahead)
    canvas.shape(box, "200,520 380,500 640,720 560,1000 440,1000 480,780", legs, rider)
    canvas.shape(box, "180,560 260,300 480,160 620,220 560,340 420,600", coat, rider)
    canvas.shape(box, "540,240 620,230 860,480 800,520", shade(coat, 84), rider)
    canvas.shape(box, "520,60 580,0 700,0 760,60 740,160 660,210 560,180", skin, rider)
    canvas.shape(box, "510,80 560,0 710,0 770,70", street.faded(draws.pick(_PAINTS), ahead))


def tree(street: Street, side: float, ahead: float) -> None:
    """Paints a trunk and a crown of several bushes, darker below."""
    canvas, draws, front = street.canvas, street.draws, street.camera.front
    surface = canvas.stuff("vegetation", 130)
    tall = draws.between(42, 75) / 10
    bark = street.drawn((78, 62, 48), 8, ahead)
    leaf = street.drawn(draws.pick(FOLIAGE), 14, ahead)
    canvas.box(front(side, ahead, 0.34, tall * 0.6), bark, surface)
    spread = tall * draws.between(46, 62) / 100
    crown = front(side, ahead, spread, tall * 0.64, up_m=tall * 0.36)
    for _ in range(7):
        x, y = draws.between(-120, 560), draws.between(-60, 480)
        spot = crown.inner(x, y, x + draws.between(420, 600), y + draws.between(380, 540))
        canvas.shape(spot, _LEAVES, shade(leaf, 116 - y // 16 + draws.between(-6, 6)), surface)


def bush(street: Street, side: float, ahead: float) -> None:
    """Paints a bush, lighter above."""
    canvas, draws = street.canvas, street.draws
    leaf = street.drawn(draws.pick(FOLIAGE), 14, ahead)
    box = street.camera.front(side, ahead, draws.between(12, 26) / 10, draws.between(7, 15) / 10)
    canvas.shape(box, BUSH, leaf, canvas.stuff("vegetation", 130))
    canvas.shape(box.inner(120, 60, 720, 500), BUSH, shade(leaf, 116))


def _post(street: Street, side: float, ahead: float, height_m: float) -> None:
    box = street.camera.front(side, ahead, 0.12, height_m)
    box = Box(box.x0, box.y0, max(box.x1, box.x0 + street.camera.px(2) - 1), box.y1)
    grey = street.faded(_STEEL, ahead)
    street.canvas.box(box, grey, street.canvas.stuff("pole", 16))
    street.canvas.box(Box(box.x0, box.y0, box.x0 + (box.x1 - box.x0) // 3, box.y1), shade(grey, 76))


def lamp(street: Street, side: float, ahead: float) -> None:
    """Paints a street lamp with an arm over the road."""
    canvas, camera = street.canvas, street.camera
    tall = street.draws.between(50, 72) / 10
    _post(street, side, ahead, tall)
    end = side + (-1.3 if side > 0 else 1.3)
    grey, thick, pole = street.faded(_STEEL, ahead), 0.1 + 0.004 * ahead, canvas.stuff("pole", 16)
    corners = ((side, tall), (end, tall + 0.2), (end, tall + 0.2 - thick), (side, tall - thick))
    canvas.polygon([camera.point(x, up, ahead) for x, up in corners], grey, pole)
    canvas.box(camera.front(end, ahead, 0.7, 0.16, up_m=tall + 0.05), shade(grey, 60), pole)


def traffic_light(street: Street, side: float, ahead: float) -> None:
    """Paints three lamps in a dark case on a post."""
    canvas = street.canvas
    _post(street, side, ahead, 2.6)
    case = street.camera.front(side, ahead, 0.46, 1.15, up_m=2.4)
    canvas.box(case, street.faded((34, 36, 36), ahead), canvas.stuff("traffic light", 12))
    lit = street.draws.below(3)
    radius = max(1, (case.x1 - case.x0) * 30 // 100)
    for index, colour in enumerate(((232, 44, 36), (244, 186, 40), (50, 214, 110))):
        shown = colour if index == lit else mix(colour, (30, 30, 30), 200)
        canvas.disc(case.at(500, 180 + 320 * index), radius, street.faded(shown, ahead))


def traffic_sign(street: Street, side: float, ahead: float) -> None:
    """Paints a round, square or triangular sign on a post, in colours that are no liveries."""
    canvas, draws = street.canvas, street.draws
    _post(street, side, ahead, 2.3)
    plate = street.camera.front(side, ahead, 0.8, 0.8, up_m=1.9)
    surface = canvas.stuff("traffic sign", 10)
    rim, field = (street.faded(colour, ahead) for colour in draws.pick(_SIGNS))
    shape = draws.below(3)
    if shape == 0:
        radius = max(1, (plate.x1 - plate.x0) // 2)
        canvas.disc(plate.centre, radius, rim, surface)
        canvas.disc(plate.centre, radius * 7 // 10, field)
    elif shape == 1:
        canvas.shape(plate, "500,0 1000,900 0,900", rim, surface)
        canvas.shape(plate, "500,250 800,790 200,790", field)
    else:
        canvas.box(plate, rim, surface)
        canvas.box(plate.inner(150, 150, 850, 850), field)


def litter_bin(street: Street, side: float, ahead: float) -> None:
    """Paints a litter bin: 'static' in Cityscapes, ignored."""
    box = street.camera.front(side, ahead, 0.5, 0.95)
    colour = street.drawn((70, 76, 70), 14, ahead)
    street.canvas.box(box, colour, street.canvas.stuff("static", 24))
    street.canvas.box(box.inner(0, 0, 1000, 180), shade(colour, 60))


def barrier(street: Street, side: float, ahead: float) -> None:
    """Paints a guard fence along the kerb, posts and two rails; the view through it is labelled fence too."""
    canvas, upright = street.canvas, street.camera.upright
    length = street.draws.between(40, 90) / 10
    colour = street.drawn((146, 148, 150), 12, ahead)
    canvas.polygon(upright(side, 0.1, 1.05, ahead, ahead + length), None, canvas.stuff("fence", 60))
    for low, high in ((0.95, 1.05), (0.5, 0.58)):
        canvas.polygon(upright(side, low, high, ahead, ahead + length), colour)
    for index in range(6):
        post = ahead + length * index / 5
        canvas.polygon(upright(side, 0, 1.05, post, post + 0.12), colour)


NEAR, MIDDLE, FAR = (45, 140), (90, 300), (220, 700)  # tenths of a metre ahead
PROPS: dict[str, tuple[Callable[[Street, float, float], None], Size, tuple[tuple[int, int, tuple[int, int]], ...]]] = {
    "car": (car, (1.8, 1.5, 4.2), ((1, 4, MIDDLE), (2, 6, FAR))),
    "person": (person, (0.8, 1.9, 0.3), ((1, 5, MIDDLE), (1, 5, FAR), (0, 1, NEAR))),
    "tree": (tree, (4.4, 7.0, 0.3), ((0, 4, MIDDLE), (1, 6, FAR))),
    "bush": (bush, (2.4, 1.5, 0.3), ((0, 3, MIDDLE),)),
    "lamp": (lamp, (2.8, 7.4, 0.3), ((1, 3, MIDDLE), (1, 3, FAR), (0, 1, NEAR))),
    "traffic_sign": (traffic_sign, (0.9, 2.8, 0.3), ((1, 3, MIDDLE), (0, 2, FAR))),
    "traffic_light": (traffic_light, (0.5, 3.6, 0.3), ((0, 2, MIDDLE), (0, 2, FAR))),
    "bicycle": (bicycle, (1.7, 1.1, 0.3), ((0, 2, MIDDLE),)),
    "motorcycle": (motorcycle, (2.0, 1.3, 0.3), ((0, 1, MIDDLE),)),
    "cyclist": (cyclist, (1.7, 1.8, 0.3), ((0, 1, MIDDLE),)),
    "truck": (truck, (2.4, 3.2, 7.0), ((0, 1, FAR),)),
    "bus": (bus, (2.5, 3.0, 10.0), ((0, 1, FAR),)),
    "barrier": (barrier, (0.2, 1.1, 7.0), ((0, 1, MIDDLE),)),
    "litter_bin": (litter_bin, (0.5, 1.0, 0.3), ((0, 2, MIDDLE),)),
    "train": (train, (2.4, 3.3, 22.0), ()),
}
"""By name: the painter, the size of what it paints, and groups in a street: smallest and largest number, distance."""
