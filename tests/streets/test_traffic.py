"""Vehicles and people: each paints what it is, where it stands."""

import pytest

from segnl.streets import traffic
from segnl.streets.canvas import Canvas, Draws
from segnl.streets.town import plan_street

NAMES = ("car", "truck", "bus", "train", "person", "bicycle", "motorcycle")


def painted(name: str, side: float, ahead: float) -> tuple[Canvas, list[int]]:
    draws, canvas = Draws(1), Canvas((256, 512))
    street = plan_street(draws, (256, 512))
    canvas.stuff("road")
    getattr(traffic, name)(canvas, draws, street, (side, ahead))
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
