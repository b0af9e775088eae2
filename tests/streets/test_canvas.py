"""Draws, the camera and the canvas, in whole numbers."""

import numpy as np

from segnl.streets.canvas import Box, Camera, Canvas, Draws, Surface, mix, nearest, shade


def test_draws_are_the_raw_words_of_pcg64():
    draws = Draws(5)
    words = np.random.PCG64(5).random_raw(256).tolist()[::-1]
    assert [draws.below(1000) for _ in range(3)] == [(word >> 11) % 1000 for word in words[:3]]


def test_draws_stay_within_their_bounds_and_reach_both_ends():
    draws = Draws(1)
    assert {draws.between(-2, 3) for _ in range(300)} == set(range(-2, 4))
    assert sorted(draws.shuffled(range(7))) == list(range(7))
    assert not any(draws.chance(0) for _ in range(50))
    assert all(draws.chance(100) for _ in range(50))
    assert all(0 <= channel <= 255 for _ in range(50) for channel in draws.near((3, 128, 254), 30))


def test_random_bytes_fill_an_odd_shape_evenly():
    found = Draws(2).bytes(77, 111)
    assert found.shape == (77, 111)
    assert found.dtype == np.uint8
    assert abs(found.mean() - 127.5) < 3


def test_nearest_rounds_halves_upwards_below_zero_too():
    assert [nearest(value) for value in (0.5, 1.4, -0.5, -0.6, 2.0)] == [1, 1, 0, -1, 2]


def test_a_box_counts_its_ends_and_overlaps_only_where_it_does():
    box = Box(2, 3, 5, 4)
    assert box.area == 8
    assert box.overlap(Box(5, 4, 9, 9)) == 1
    assert box.overlap(Box(6, 3, 9, 4)) == 0
    assert box.at(0, 0) == (2, 3)
    assert box.at(1000, 1000) == (5, 4)


def test_the_camera_sees_farther_ground_nearer_to_the_horizon():
    camera = Camera(hw=(256, 512), vanish_xy=(250, 110), unit=1.0)
    rows = [camera.point(0, 0, ahead)[1] for ahead in (4, 8, 16, 32, 1e6)]
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] == 110
    assert camera.point(0, camera.height_m, 7)[1] == 110  # eye height is the horizon at any distance
    assert abs(camera.ahead_of_row(rows[1]) - 8) < 0.1
    assert abs(camera.side_of_column(camera.point(3, 0, 8)[0], 8) - 3) < 0.02


def test_a_shape_without_a_surface_changes_colour_only():
    canvas = Canvas((7, 11))
    car = canvas.add(Surface("", 0, placement=1))
    number = canvas.thing("car")
    canvas.box(Box(1, 1, 3, 3), (9, 8, 7), number)
    canvas.paint([[(2, 2), (4, 2), (4, 4), (2, 4)]], (1, 2, 3))
    assert (canvas.owner == number).sum() == 9
    assert car != number
    assert canvas.image[4, 4].tolist() == [1, 2, 3]
    canvas.polygon([(8, 5), (10, 5), (10, 6), (8, 6)], None, number)
    assert (canvas.owner == number).sum() == 15
    assert not canvas.image[5:, 8:].any()


def test_stuff_of_one_class_is_one_surface_and_things_are_each_their_own():
    canvas = Canvas((7, 11))
    assert canvas.stuff("road") == canvas.stuff("road")
    assert canvas.thing("car") != canvas.thing("car")


def test_colours_mix_and_shade_within_bounds():
    assert mix((0, 100, 255), (255, 100, 0), 0) == (0, 100, 255)
    assert mix((0, 100, 255), (255, 100, 0), 256) == (255, 100, 0)
    assert shade((100, 200, 250), 150) == (150, 255, 255)
