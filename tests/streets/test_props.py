"""Each prop paints what it is, where it stands; thin poles stay visible far away."""

import pytest

from segnl.streets.canvas import Canvas, Draws
from segnl.streets.props import PROPS
from segnl.streets.town import plan_street

NAMES = ("car", "truck", "bus", "train", "person", "bicycle", "motorcycle")


def painted(name: str, side: float, ahead: float) -> tuple[Canvas, list[int]]:
    street = plan_street(Draws(1), (256, 512))
    canvas = street.canvas
    canvas.stuff("road")
    PROPS[name][0](street, side, ahead)
    return canvas, [int((canvas.owner == number).sum()) for number in range(len(canvas.surfaces))]


@pytest.mark.parametrize("name", NAMES)
def test_a_prop_is_one_instance_that_shrinks_with_distance(name: str):
    canvas, near = painted(name, 2.0, 9.0)
    assert [surface.name for surface in canvas.surfaces] == ["road", name]
    _, far = painted(name, 2.0, 27.0)
    assert near[1] > 4 * far[1] > 0


@pytest.mark.parametrize("side", [-3.0, 0.0, 3.0])
def test_a_car_may_stand_left_ahead_or_right(side: float):
    assert painted("car", side, 12.0)[1][1] > 300


def test_a_cyclist_is_a_rider_and_a_bicycle():
    canvas, pixels = painted("cyclist", 1.0, 9.0)
    assert [surface.name for surface in canvas.surfaces] == ["road", "bicycle", "rider"]
    assert min(pixels[1:]) > 50


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("tree", {"vegetation"}),
        ("bush", {"vegetation"}),
        ("lamp", {"pole"}),
        ("traffic_light", {"pole", "traffic light"}),
        ("traffic_sign", {"pole", "traffic sign"}),
        ("litter_bin", {"static"}),
        ("barrier", {"fence"}),
    ],
)
@pytest.mark.parametrize("ahead", [8.0, 40.0])
def test_furniture_paints_its_classes_near_and_far(name: str, classes: set[str], ahead: float):
    canvas, _ = painted(name, 3.0, ahead)
    seen = {canvas.surfaces[number].name for number in set(canvas.owner.ravel().tolist())} - {"road"}
    assert seen == classes
