"""The lasting part of a street."""

import numpy as np
import pytest

from segnl.streets.canvas import Draws
from segnl.streets.town import paint_town, plan_street


@pytest.mark.parametrize("hw", [(64, 128), (256, 512)])
def test_sky_is_above_and_road_is_below(hw: tuple[int, int]):
    for seed in range(6):
        street = plan_street(Draws(seed), hw)
        canvas = street.canvas
        paint_town(street)
        horizon = street.camera.vanish_xy[1]
        assert not (canvas.owner[horizon + 2 :] == canvas.stuff("sky")).any()
        assert not (canvas.owner[:horizon] == canvas.stuff("road")).any()
        assert (canvas.owner == canvas.stuff("road")).mean() > 0.15
        assert (canvas.owner == canvas.stuff("building")).any()


def test_every_pixel_of_a_town_has_an_owner_and_a_colour():
    street = plan_street(Draws(3), (128, 256))
    canvas = street.canvas
    canvas.owner[:] = 65_535
    paint_town(street)
    assert canvas.owner.max() < len(canvas.surfaces)
    assert canvas.image.max(axis=2).min() > 0


def test_distance_fades_colours_to_the_haze():
    street = plan_street(Draws(0), (256, 512))
    black = np.array([street.faded((0, 0, 0), ahead) for ahead in (0, 20, 60, 500)])
    assert black[0].tolist() == [0, 0, 0]
    assert (np.diff(black.sum(axis=1)) > 0).all()
    assert (black[-1] <= street.haze).all()
