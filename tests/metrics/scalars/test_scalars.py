import math

import numpy as np
import pytest

from segnl.metrics.confusion import Confusion
from segnl.metrics.scalars.find import metric_values


def values(matrix):
    return metric_values(["mean_f1", "cohen_kappa"], Confusion(len(matrix), np.array(matrix)))


def test_kappa_and_mean_f1_match_a_loop_over_pixels():
    matrix = [[5, 2, 0, 1], [1, 7, 0, 0], [0, 0, 0, 0]]  # the third class is absent; one pixel is predicted as ignored
    pairs = [(i, j) for i in range(3) for j in range(4) for _ in range(matrix[i][j])]
    agreed = sum(i == j for i, j in pairs) / len(pairs)
    chance = sum((a == b) for a, _ in pairs for _, b in pairs) / len(pairs) ** 2
    f1 = [2 * sum(i == j == k for i, j in pairs) / sum((i == k) + (j == k) for i, j in pairs) for k in (0, 1)]
    assert values(matrix) == pytest.approx({"mean_f1": sum(f1) / 2, "cohen_kappa": (agreed - chance) / (1 - chance)})


def test_the_undefined_is_nan():
    assert all(math.isnan(value) for value in values([[0, 0, 0], [0, 0, 0]]).values())
