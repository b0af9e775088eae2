"""Street furniture: each paints the classes it says, and thin poles stay visible far away."""

import pytest

from segnl.streets import furniture
from segnl.streets.canvas import Canvas, Draws
from segnl.streets.town import plan_street


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("tree", {"vegetation"}),
        ("bush", {"vegetation"}),
        ("lamp", {"pole"}),
        ("traffic_light", {"pole", "traffic light"}),
        ("traffic_sign", {"pole", "traffic sign"}),
        ("bin_", {"static"}),
        ("barrier", {"fence"}),
    ],
)
@pytest.mark.parametrize("ahead", [8.0, 40.0])
def test_furniture_paints_its_classes_near_and_far(name: str, classes: set[str], ahead: float):
    draws, canvas = Draws(1), Canvas((256, 512))
    street = plan_street(draws, (256, 512))
    canvas.stuff("road")
    getattr(furniture, name)(canvas, draws, street, (3.0, ahead))
    seen = {canvas.surfaces[number].name for number in set(canvas.owner.ravel().tolist())} - {"road"}
    assert seen == classes
