"""The camera's light: whole numbers, the same on every machine."""

import numpy as np

from segnl.streets.canvas import Draws
from segnl.streets.light import blur, finish


def test_blur_is_the_binomial_rounded_once():
    image = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(np.int64)
    expected = np.zeros(image.shape, np.int64)
    for y in range(3):
        for x in range(3):
            expected += (1, 2, 1)[y] * (1, 2, 1)[x] * padded[y : y + 7, x : x + 11]
    assert np.array_equal(blur(image), (expected + 8) >> 4)


def test_a_surface_without_grain_is_smoother_than_one_with():
    image = np.full((64, 128, 3), 120, np.uint8)
    grain = np.zeros((64, 128), np.uint8)
    grain[:, 64:] = 130
    rough, smooth = [], []
    for seed in range(5):
        out = finish(image, grain, Draws(seed)).astype(np.float64)
        smooth.append(np.diff(out[:, :60], axis=0).std())
        rough.append(np.diff(out[:, 68:], axis=0).std())
    assert all(with_grain > without for with_grain, without in zip(rough, smooth, strict=True))


def test_no_light_wraps_around_at_black_or_white():
    grain = np.full((33, 65), 255, np.uint8)
    for seed in range(8):
        assert finish(np.full((33, 65, 3), 255, np.uint8), grain, Draws(seed)).mean() > 100
        assert finish(np.zeros((33, 65, 3), np.uint8), grain * 0, Draws(seed)).max() <= 8


def test_images_of_a_split_differ_in_light():
    image = np.full((32, 64, 3), 120, np.uint8)
    means = [finish(image, np.zeros((32, 64), np.uint8), Draws(seed)).mean() for seed in range(20)]
    assert max(means) - min(means) > 30
