"""Static objects along a street: trees, lamps, traffic lights, signs, bins. Painters take places in metres."""

from segnl.streets.canvas import Box, Canvas, Draws, corners, mix, shade
from segnl.streets.town import BUSH, FOLIAGE, Street

Place = tuple[float, float]
"""Metres right of the street's middle, metres ahead."""
_STEEL = (96, 98, 100)


def tree(canvas: Canvas, draws: Draws, street: Street, place: Place) -> None:
    """Paints a trunk and a crown of several bushes, darker below."""
    side, ahead = place
    surface = canvas.stuff("vegetation", 130)
    tall = draws.between(42, 75) / 10
    bark = street.faded(draws.near((78, 62, 48), 8), ahead)
    leaf = street.faded(draws.near(draws.pick(FOLIAGE), 14), ahead)
    canvas.box(street.camera.front(side, ahead, 0.34, tall * 0.6), bark, surface)
    spread = tall * draws.between(46, 62) / 100
    crown = street.camera.front(side, ahead, spread, tall * 0.64, up_m=tall * 0.36)
    for _ in range(7):
        x, y = draws.between(-120, 560), draws.between(-60, 480)
        spot = crown.inner(x, y, x + draws.between(420, 600), y + draws.between(380, 540))
        canvas.shape(spot, _LEAVES, shade(leaf, 116 - y // 16 + draws.between(-6, 6)), surface)


_LEAVES = corners("0,560 90,250 260,160 400,0 640,60 850,160 1000,430 930,760 740,900 560,1000 300,920 90,800")


def bush(canvas: Canvas, draws: Draws, street: Street, place: Place) -> None:
    side, ahead = place
    leaf = street.faded(draws.near(draws.pick(FOLIAGE), 14), ahead)
    box = street.camera.front(side, ahead, draws.between(12, 26) / 10, draws.between(7, 15) / 10)
    canvas.shape(box, BUSH, leaf, canvas.stuff("vegetation", 130))
    canvas.shape(box.inner(120, 60, 720, 500), BUSH, shade(leaf, 116))


def _post(canvas: Canvas, street: Street, place: Place, height_m: float, width_m: float = 0.12) -> Box:
    box = street.camera.front(place[0], place[1], width_m, height_m)
    box = Box(box.x0, box.y0, max(box.x1, box.x0 + street.camera.px(2) - 1), box.y1)
    colour = street.faded(_STEEL, place[1])
    canvas.box(box, colour, canvas.stuff("pole", 16))
    canvas.box(Box(box.x0, box.y0, box.x0 + (box.x1 - box.x0) // 3, box.y1), shade(colour, 76))
    return box


def lamp(canvas: Canvas, draws: Draws, street: Street, place: Place) -> None:
    """Paints a street lamp with an arm over the road."""
    side, ahead = place
    tall = draws.between(50, 72) / 10
    _post(canvas, street, place, tall)
    inwards = -1.3 if side > 0 else 1.3
    point, grey = street.camera.point, street.faded(_STEEL, ahead)
    thick = 0.1 + 0.004 * ahead
    arm = [
        point(side, tall, ahead),
        point(side + inwards, tall + 0.2, ahead),
        point(side + inwards, tall + 0.2 - thick, ahead),
        point(side, tall - thick, ahead),
    ]
    canvas.polygon(arm, grey, canvas.stuff("pole", 16))
    head = street.camera.front(side + inwards, ahead, 0.7, 0.16, up_m=tall + 0.05)
    canvas.box(head, shade(grey, 60), canvas.stuff("pole", 16))


def traffic_light(canvas: Canvas, draws: Draws, street: Street, place: Place) -> None:
    """Paints three lamps in a dark case on a post."""
    side, ahead = place
    _post(canvas, street, place, 2.6)
    case = street.camera.front(side, ahead, 0.46, 1.15, up_m=2.4)
    canvas.box(case, street.faded((34, 36, 36), ahead), canvas.stuff("traffic light", 12))
    lit = draws.below(3)
    colours = ((232, 44, 36), (244, 186, 40), (50, 214, 110))
    radius = max(1, (case.x1 - case.x0) * 30 // 100)
    for index, colour in enumerate(colours):
        shown = colour if index == lit else mix(colour, (30, 30, 30), 200)
        canvas.disc(case.at(500, 180 + 320 * index), radius, street.faded(shown, ahead))


def traffic_sign(canvas: Canvas, draws: Draws, street: Street, place: Place) -> None:
    """Paints a round, square or triangular sign on a post, in colours that are no liveries."""
    side, ahead = place
    _post(canvas, street, place, 2.3)
    plate = street.camera.front(side, ahead, 0.8, 0.8, up_m=1.9)
    surface = canvas.stuff("traffic sign", 10)
    rim, field = draws.pick(
        (((168, 30, 34), (232, 230, 224)), ((30, 60, 120), (206, 212, 220)), ((230, 230, 226), (60, 64, 70)))
    )
    rim, field = street.faded(rim, ahead), street.faded(field, ahead)
    shape = draws.below(3)
    if shape == 0:
        radius = max(1, (plate.x1 - plate.x0) // 2)
        canvas.disc(plate.centre, radius, rim, surface)
        canvas.disc(plate.centre, radius * 7 // 10, field)
    elif shape == 1:
        canvas.shape(plate, ((500, 0), (1000, 900), (0, 900)), rim, surface)
        canvas.shape(plate, ((500, 250), (800, 790), (200, 790)), field)
    else:
        canvas.box(plate, rim, surface)
        canvas.box(plate.inner(150, 150, 850, 850), field)


def bin_(canvas: Canvas, draws: Draws, street: Street, place: Place) -> None:
    """Paints a litter bin: 'static' in Cityscapes, ignored."""
    side, ahead = place
    box = street.camera.front(side, ahead, 0.5, 0.95)
    colour = street.faded(draws.near((70, 76, 70), 14), ahead)
    canvas.box(box, colour, canvas.stuff("static", 24))
    canvas.box(box.inner(0, 0, 1000, 180), shade(colour, 60))


def barrier(canvas: Canvas, draws: Draws, street: Street, place: Place) -> None:
    """Paints a guard fence along the kerb: posts and two rails."""
    side, ahead = place
    length = draws.between(40, 90) / 10
    _point, colour = street.camera.point, street.faded(draws.near((146, 148, 150), 12), ahead)
    surface = canvas.stuff("fence", 60)
    whole = street.camera.upright(side, 0.1, 1.05, ahead, ahead + length)
    canvas.owner_only(whole, surface)
    for low, high in ((0.95, 1.05), (0.5, 0.58)):
        canvas.polygon(street.camera.upright(side, low, high, ahead, ahead + length), colour)
    for index in range(6):
        z = ahead + length * index / 5
        canvas.polygon(street.camera.upright(side, 0, 1.05, z, z + 0.12), colour)
