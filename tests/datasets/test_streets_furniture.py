"""Street furniture: each paints the classes it says, and thin poles stay visible far away."""

import pytest

from segnl.datasets import streets_furniture
from segnl.datasets.streets_canvas import Canvas, Draws
from segnl.datasets.streets_town import plan_street


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
    getattr(streets_furniture, name)(canvas, draws, street, (3.0, ahead))
    seen = {canvas.surfaces[number].name for number in set(canvas.owner.ravel().tolist())} - {"road"}
    assert seen == classes
