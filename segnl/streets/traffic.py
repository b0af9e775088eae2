"""Moving objects of a street: cars, trucks, buses, trams, people, bicycles and motorcycles."""

from segnl.streets.canvas import Box, Canvas, Draws, Points, mix, shade
from segnl.streets.pairs import Colour
from segnl.streets.town import Street

_PAINTS: tuple[Colour, ...] = (
    (188, 190, 192),
    (60, 62, 66),
    (124, 26, 30),
    (40, 60, 104),
    (214, 214, 210),
    (92, 98, 104),
    (46, 74, 60),
    (140, 128, 108),
    (26, 28, 32),
)
_TYRE: Colour = (24, 24, 26)
_GLASS: Colour = (48, 58, 68)
_SKIN: tuple[Colour, ...] = ((222, 178, 150), (172, 124, 92), (112, 78, 60), (236, 196, 168))
_CLOTHES: tuple[Colour, ...] = (
    (44, 46, 58),
    (120, 112, 100),
    (72, 84, 72),
    (150, 148, 150),
    (90, 62, 54),
    (34, 34, 36),
    (110, 120, 138),
)


def solid(
    canvas: Canvas,
    street: Street,
    place: tuple[float, float],
    size: tuple[float, float, float],
    colour: Colour,
    surface: int,
    up_m: float = 0.0,
) -> Box:
    """Paints a block along the street: its visible side, then its rear. Returns the box of the rear.

    place: metres right, ahead. size: width, height, length in metres.
    """
    side, ahead = place
    width, height, length = size
    rear = street.camera.front(side, ahead, width, height, up_m)
    front = street.camera.front(side, ahead + length, width, height, up_m)
    flank = shade(colour, 78)
    if side - width / 2 > 0:
        canvas.polygon(
            [(rear.x0, rear.y0), (rear.x0, rear.y1), (front.x0, front.y1), (front.x0, front.y0)], flank, surface
        )
    elif side + width / 2 < 0:
        canvas.polygon(
            [(rear.x1, rear.y0), (rear.x1, rear.y1), (front.x1, front.y1), (front.x1, front.y0)], flank, surface
        )
    canvas.box(rear, colour, surface)
    return rear


def _shadow(canvas: Canvas, street: Street, place: tuple[float, float], width: float, length: float) -> None:
    side, ahead = place
    point = street.camera.point
    half = width / 2 + 0.15
    area: Points = [
        point(side - half, 0, ahead - 0.2),
        point(side + half, 0, ahead - 0.2),
        point(side + half, 0, ahead + length),
        point(side - half, 0, ahead + length),
    ]
    canvas.polygon(area, street.faded((46, 46, 50), ahead))


def car(canvas: Canvas, draws: Draws, street: Street, place: tuple[float, float]) -> None:
    """Paints a car along the street."""
    ahead = place[1]
    surface = canvas.thing("car")
    paint = street.faded(draws.near(draws.pick(_PAINTS), 16), ahead)
    tyre, glass = street.faded(_TYRE, ahead), street.faded(_GLASS, ahead)
    _shadow(canvas, street, place, 1.8, 4.2)
    for offset in (-0.72, 0.72):
        canvas.box(street.camera.front(place[0] + offset, ahead, 0.26, 0.36), tyre, surface)
    cabin = solid(canvas, street, (place[0], ahead + 0.5), (1.5, 0.62, 2.4), glass, surface, up_m=0.85)
    canvas.box(cabin.inner(0, 0, 1000, 120), paint, surface)
    rear = solid(canvas, street, place, (1.8, 0.7, 4.2), paint, surface, up_m=0.24)
    canvas.shape(
        Box(rear.x0, cabin.y0, rear.x1, rear.y0), ((30, 1000), (170, 60), (830, 60), (970, 1000)), paint, surface
    )
    canvas.shape(Box(rear.x0, cabin.y0, rear.x1, rear.y0), ((120, 900), (220, 200), (780, 200), (880, 900)), glass)
    lamp = (196, 36, 32) if place[0] > 0 else (240, 236, 214)
    for x in (30, 800):
        canvas.box(rear.inner(x, 180, x + 170, 420), street.faded(lamp, ahead))
    canvas.box(rear.inner(0, 740, 1000, 1000), shade(paint, 60))
    canvas.box(rear.inner(380, 480, 620, 680), street.faded((226, 226, 220), ahead))


def truck(canvas: Canvas, draws: Draws, street: Street, place: tuple[float, float]) -> None:
    """Paints a lorry: a pale container above a dark frame, the cab in front."""
    ahead = place[1]
    surface = canvas.thing("truck")
    load = street.faded(draws.near((206, 200, 188), 14), ahead)
    _shadow(canvas, street, place, 2.4, 7.0)
    cab = street.faded(draws.near((96, 104, 112), 12), ahead)
    solid(canvas, street, (place[0], ahead + 5.2), (2.3, 2.2, 1.8), cab, surface, up_m=0.5)
    solid(canvas, street, place, (2.2, 0.6, 6.0), street.faded((40, 40, 42), ahead), surface, up_m=0.45)
    for offset in (-0.85, 0.85):
        canvas.box(street.camera.front(place[0] + offset, ahead, 0.5, 0.8), street.faded(_TYRE, ahead), surface)
    rear = solid(canvas, street, place, (2.4, 2.2, 5.0), load, surface, up_m=1.0)
    seam = shade(load, 82)
    canvas.box(rear.inner(485, 0, 515, 1000), seam)
    for x in (300, 680):
        canvas.box(rear.inner(x, 60, x + 25, 940), seam)


def bus(canvas: Canvas, draws: Draws, street: Street, place: tuple[float, float]) -> None:
    """Paints a town bus with a large rear window, a line number and a row of windows."""
    _coach(canvas, draws, street, place, "bus", (2.5, 2.9, 10.0), ((236, 226, 196), (166, 38, 36)))


def train(canvas: Canvas, draws: Draws, street: Street, place: tuple[float, float]) -> None:
    """Paints a tram on its rails; Cityscapes counts trams as trains."""
    point = street.camera.point
    for offset in (-0.75, 0.75):
        rail = place[0] + offset
        canvas.polygon(
            [
                point(rail - 0.05, 0, 2.2),
                point(rail + 0.05, 0, 2.2),
                point(rail + 0.05, 0, 90),
                point(rail - 0.05, 0, 90),
            ],
            (70, 70, 74),
        )
    _coach(canvas, draws, street, place, "train", (2.4, 3.2, 22.0), ((222, 222, 214), (52, 92, 70)))


def _coach(
    canvas: Canvas,
    draws: Draws,
    street: Street,
    place: tuple[float, float],
    name: str,
    size: tuple[float, float, float],
    colours: tuple[Colour, Colour],
) -> None:
    side, ahead = place
    width, height, length = size
    upper, lower = (street.faded(draws.near(colour, 10), ahead) for colour in colours)
    glass = street.faded(_GLASS, ahead)
    surface = canvas.thing(name)
    _shadow(canvas, street, place, width, length)
    canvas.box(street.camera.front(side, ahead, width * 0.86, 0.4), street.faded(_TYRE, ahead), surface)
    solid(canvas, street, place, (width, height - 0.3, length), upper, surface, up_m=0.3)
    rear = solid(canvas, street, place, (width, 1.0, length), lower, surface, up_m=0.3)
    edge = side - width / 2 if side > 0 else side + width / 2
    panes: list[Points] = []
    first = ahead + 0.6
    while first + 1.5 < ahead + length:
        panes.append(street.camera.upright(edge, 1.6, 2.5, first, first + 1.3))
        first += 1.7
    if abs(side) > width / 2:
        canvas.paint(panes, shade(glass, 90))
    window = street.camera.front(side, ahead, width * 0.84, 1.0, up_m=1.45)
    canvas.box(window, glass)
    canvas.box(street.camera.front(side, ahead, width * 0.5, 0.3, up_m=2.55), street.faded((26, 26, 24), ahead))
    canvas.box(street.camera.front(side, ahead, width * 0.3, 0.18, up_m=2.6), street.faded((250, 190, 60), ahead))
    for x in (40, 850):
        canvas.box(rear.inner(x, 250, x + 110, 520), street.faded((206, 44, 36), ahead))


def figure(canvas: Canvas, draws: Draws, street: Street, box: Box, ahead: float, surface: int) -> None:
    """Paints a walking person: legs, trunk, an arm, a head."""
    coat = street.faded(draws.near(draws.pick(_CLOTHES), 14), ahead)
    trousers = street.faded(draws.near(draws.pick(_CLOTHES), 10), ahead)
    skin = street.faded(draws.pick(_SKIN), ahead)
    swing = draws.between(40, 200)
    canvas.shape(box, ((330, 480), (520, 480), (430 - swing, 1000), (260 - swing, 1000)), shade(trousers, 84), surface)
    canvas.shape(box, ((480, 480), (690, 480), (740 + swing, 1000), (560 + swing, 1000)), trousers, surface)
    canvas.shape(box, ((300, 200), (420, 155), (590, 155), (720, 200), (740, 560), (280, 560)), coat, surface)
    canvas.shape(box, ((680, 210), (760, 250), (880, 520), (770, 540)), shade(coat, 84), surface)
    canvas.shape(
        box, ((390, 40), (450, 0), (570, 0), (630, 40), (620, 130), (560, 165), (460, 165), (400, 130)), skin, surface
    )
    canvas.shape(
        box, ((390, 60), (440, 0), (580, 0), (640, 70), (600, 50), (430, 50)), street.faded((52, 38, 30), ahead)
    )


def person(canvas: Canvas, draws: Draws, street: Street, place: tuple[float, float]) -> None:
    side, ahead = place
    tall = draws.between(155, 188) / 100
    figure(canvas, draws, street, street.camera.front(side, ahead, 0.72, tall), ahead, canvas.thing("person"))


def bicycle(canvas: Canvas, draws: Draws, street: Street, place: tuple[float, float]) -> None:
    """Paints a bicycle seen from its side."""
    box = street.camera.front(place[0], place[1], 1.6, 1.0)
    _wheels(canvas, street, box, place[1], canvas.thing("bicycle"), draws.near(draws.pick(_PAINTS), 20))


def motorcycle(canvas: Canvas, draws: Draws, street: Street, place: tuple[float, float]) -> None:
    """Paints a motorcycle seen from its side."""
    ahead = place[1]
    box = street.camera.front(place[0], ahead, 1.9, 1.15)
    surface = canvas.thing("motorcycle")
    body = street.faded(draws.near(draws.pick(_PAINTS), 20), ahead)
    tyre = street.faded(_TYRE, ahead)
    radius = max(1, (box.y1 - box.y0) * 28 // 100)
    for x in (180, 820):
        canvas.disc((box.at(x, 0)[0], box.y1 - radius), radius, tyre, surface)
        canvas.disc((box.at(x, 0)[0], box.y1 - radius), radius // 2, mix(tyre, (180, 180, 180), 110))
    canvas.shape(
        box,
        ((200, 700), (330, 420), (560, 300), (760, 420), (800, 640), (600, 820), (380, 820)),
        shade(body, 64),
        surface,
    )
    canvas.shape(box, ((420, 400), (560, 200), (720, 260), (760, 460), (500, 520)), body, surface)
    canvas.shape(box, ((60, 400), (120, 300), (440, 340), (430, 450)), tyre, surface)
    canvas.shape(box, ((690, 260), (660, 20), (720, 0), (860, 660), (790, 660)), shade(body, 80), surface)


def cyclist(canvas: Canvas, draws: Draws, street: Street, place: tuple[float, float]) -> None:
    """Paints a rider on a bicycle: two instances, the rider in front of the frame."""
    side, ahead = place
    box = street.camera.front(side, ahead, 1.6, 1.0)
    _wheels(canvas, street, box, ahead, canvas.thing("bicycle"), draws.near(draws.pick(_PAINTS), 20))
    rider = canvas.thing("rider")
    whole = street.camera.front(side, ahead, 1.1, 1.45, up_m=0.25)
    coat = street.faded(draws.near(draws.pick(_CLOTHES), 16), ahead)
    legs = street.faded(draws.near(draws.pick(_CLOTHES), 10), ahead)
    canvas.shape(whole, ((200, 520), (380, 500), (640, 720), (560, 1000), (440, 1000), (480, 780)), legs, rider)
    canvas.shape(whole, ((180, 560), (260, 300), (480, 160), (620, 220), (560, 340), (420, 600)), coat, rider)
    canvas.shape(whole, ((540, 240), (620, 230), (860, 480), (800, 520)), shade(coat, 84), rider)
    canvas.shape(
        whole,
        ((520, 60), (580, 0), (700, 0), (760, 60), (740, 160), (660, 210), (560, 180)),
        street.faded(draws.pick(_SKIN), ahead),
        rider,
    )
    canvas.shape(whole, ((510, 80), (560, 0), (710, 0), (770, 70)), street.faded(draws.pick(_PAINTS), ahead))


def _wheels(canvas: Canvas, street: Street, box: Box, ahead: float, surface: int, colour: Colour) -> None:
    """Paints two wheels and a frame; the wheels are labelled as full discs, as in Cityscapes."""
    tyre, frame = street.faded(_TYRE, ahead), street.faded(colour, ahead)
    radius = max(1, (box.y1 - box.y0) * 33 // 100)
    for x in (210, 790):
        centre = (box.at(x, 0)[0], box.y1 - radius)
        canvas.disc(centre, radius, tyre, surface)
        canvas.disc(centre, radius * 3 // 4, mix(tyre, (168, 166, 160), 150))
    canvas.shape(box, ((190, 640), (370, 250), (660, 250), (700, 330), (440, 330), (270, 700)), frame, surface)
    canvas.shape(
        box, ((440, 640), (640, 260), (700, 260), (820, 660), (740, 660), (660, 400), (520, 700)), frame, surface
    )
    canvas.shape(box, ((280, 180), (440, 160), (440, 240), (280, 240)), tyre, surface)
    canvas.shape(box, ((610, 100), (760, 60), (770, 130), (690, 160), (690, 290), (630, 290)), frame, surface)
