import math

import numpy as np
import pytest

from segnl.metrics.attention import (
    cell_of,
    centres,
    class_fractions,
    distances,
    entropy_bits,
    label_at,
    mass_within,
    own_class_share,
    shares,
)

RANDOM = np.random.default_rng(0)


def test_shares_are_absolute_weights_over_their_sum():
    share = shares(np.array([[1.0, -3.0], [0.0, 0.0]]))
    assert share[0].tolist() == [0.25, 0.75]
    assert np.isnan(share[1]).all()


def test_entropy_is_0_for_one_position_and_log2_n_for_all_alike():
    share = np.array([[0.0, 1.0, 0.0, 0.0], [0.25] * 4, [0.5, 0.25, 0.25, 0.0]])
    assert entropy_bits(share).tolist() == [0.0, 2.0, 1.5]


def test_distances_are_those_of_a_loop():
    queries, keys = RANDOM.random((3, 2)), RANDOM.random((5, 2))
    expected = [[math.dist(query, key) for key in keys] for query in queries]
    np.testing.assert_allclose(distances(queries, keys), expected)


def test_centres_go_row_by_row():
    np.testing.assert_allclose(centres((1, 2)), [[0.5, 0.25], [0.5, 0.75]])
    assert centres((7, 11)).shape == (77, 2)
    np.testing.assert_allclose(centres((7, 11))[3 * 11 + 9], [3.5 / 7, 9.5 / 11])


@pytest.mark.parametrize("hw", [(3, 4), (7, 11), (5, 16)])
def test_fractions_of_classes_count_the_pixels_of_each_cell(hw):
    label = RANDOM.choice([0, 1, 255], (14, 33)).astype(np.uint8)
    fractions = class_fractions(label, 3, hw).reshape(3, *hw)
    counts, area = np.zeros((3, *hw)), np.zeros(hw)
    for row in range(14):
        for column in range(33):
            cell = int((row + 0.5) / 14 * hw[0]), int((column + 0.5) / 33 * hw[1])
            area[cell] += 1
            if label[row, column] != 255:
                counts[label[row, column], *cell] += 1
    np.testing.assert_allclose(fractions, counts / area)


def test_a_grid_finer_than_the_label_takes_the_nearest_pixel():
    label = np.array([[0, 2]], np.uint8)
    fractions = class_fractions(label, 3, (2, 4)).reshape(3, 2, 4)
    assert fractions[0, 0].tolist() == fractions[0, 1].tolist() == [1, 1, 0, 0]
    assert fractions[2, 0].tolist() == [0, 0, 1, 1]


def test_own_class_share_is_that_of_a_loop_and_ignores_unlabelled_queries():
    share, fractions = RANDOM.dirichlet(np.ones(6), 3), RANDOM.dirichlet(np.ones(3), 6).T
    own = own_class_share(share, fractions, np.array([2, 255, 0], np.uint8))
    assert own[0] == pytest.approx(sum(share[0, j] * fractions[2, j] for j in range(6)))
    assert np.isnan(own[1])
    assert own[2] == pytest.approx(sum(share[2, j] * fractions[0, j] for j in range(6)))


def test_mass_within_a_distance_grows_to_1():
    share, distance = np.array([[0.5, 0.3, 0.2]]), np.array([[0.0, 2.0, 5.0]])
    np.testing.assert_allclose(mass_within(share, distance, np.array([1.0, 2.0, 9.0])), [[0.5, 0.8, 1.0]])


def test_points_fall_into_their_cells_the_last_edge_too():
    assert cell_of(np.array([0.0, 0.49, 0.5, 1.0]), 2).tolist() == [0, 0, 1, 1]
    label = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert label_at(label, np.array([[0.9, 0.1], [0.0, 0.99]])).tolist() == [3, 2]
