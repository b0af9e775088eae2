import itertools

import numpy as np
import pytest

from segnl.metrics.confusion import Confusion
from segnl.metrics.variance import class_contributions, contributions, difference_of, satterthwaite, spread_of


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def counts(rng, n, *, accuracy=0.8):
    """One run's pixels in intersection and union, each `n 4`: about `accuracy` of the true ones are found."""
    true = rng.integers(50, 200, (n, 4))
    share = np.clip(accuracy + 0.1 * rng.standard_normal((n, 4)), 0, 1)
    return np.floor(share * true).astype(np.int64), true + rng.integers(0, 20, (n, 4))


def slow_miou(right, union):
    """The mean over classes of the ratio of sums, one loop inside another."""
    iou = []
    for c in range(right.shape[1]):
        total = sum(int(value) for value in union[:, c])
        if total:
            iou.append(sum(int(value) for value in right[:, c]) / total)
    return sum(iou) / len(iou)


def test_contributions_average_to_the_score_that_the_confusion_matrix_gives(rng):
    label = rng.integers(0, 5, (6, 20, 20))
    pred = np.where(rng.random(label.shape) < 0.7, label, rng.integers(0, 5, label.shape))
    whole = Confusion(7)  # classes 5 and 6 are nowhere
    single = [Confusion(7) for _ in label]
    for one, p, t in zip(single, pred, label, strict=True):
        one.update(p, t)
        whole.update(p, t)
    right = np.stack([one.right() for one in single])
    union = np.stack([one.true() + one.predicted() - one.right() for one in single])
    assert contributions(right, union).mean() == pytest.approx(whole.miou(), abs=1e-14)
    np.testing.assert_allclose(class_contributions(right, union).mean(axis=0), whole.iou(), atol=1e-14)


def test_contributions_are_the_first_order_effect_of_weighing_an_image_more(rng):
    right, union = counts(rng, n=12)
    parts = contributions(right, union)
    step = 1e-6
    for i in range(12):
        weight = np.ones((12, 1))
        weight[i] += step
        moved = ((weight * right).sum(0) / (weight * union).sum(0)).mean()
        slope = (moved - slow_miou(right, union)) / step
        assert (parts[i] - parts.mean()) / 12 == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_the_image_variance_is_about_the_jackknife_s(rng):
    one, other = counts(rng, n=40), counts(rng, n=40, accuracy=0.7)
    spreads = [spread_of(contributions(*run)[None, :, None]) for run in (one, other)]
    left_out = []
    for i in range(40):
        keep = np.arange(40) != i
        left_out.append(slow_miou(*(each[keep] for each in one)) - slow_miou(*(each[keep] for each in other)))
    jackknife = 39 / 40 * sum((value - np.mean(left_out)) ** 2 for value in left_out)
    found = difference_of(spreads, 0, 1, with_seeds=False)
    assert found.variance[0] == pytest.approx(jackknife, rel=0.05)


def test_the_variance_is_that_of_seeds_and_images_without_counting_their_meeting_twice(rng):
    """Two heads, whose mean squares are written out with loops as in a textbook's two-way layout."""
    n, s = 15, 4
    parts = [rng.standard_normal((s, n)) + 3 * rng.standard_normal((s, 1)) for _ in range(2)]
    found = difference_of([spread_of(each[:, :, None]) for each in parts], 0, 1)
    between_seeds, meeting = 0.0, 0.0
    for z in parts:
        mean = z.mean()
        between_seeds += sum((z[j].mean() - mean) ** 2 for j in range(s)) / (s - 1) / s
        squares = [
            (z[j, i] - z[j].mean() - z[:, i].mean() + mean) ** 2 for j, i in itertools.product(range(s), range(n))
        ]
        meeting += sum(squares) / ((s - 1) * (n - 1)) / (s * n)
    by_image = [parts[0][:, i].mean() - parts[1][:, i].mean() for i in range(n)]
    images = sum((value - np.mean(by_image)) ** 2 for value in by_image) / (n - 1) / n
    assert found.seeds[0] == pytest.approx(between_seeds)
    assert found.variance[0] == pytest.approx(between_seeds + max(0, images - meeting))


def test_satterthwaite_gives_welch_s_degrees_of_freedom():
    variances, df = [np.array([2.0]), np.array([1.0])], [np.array([3.0]), np.array([5.0])]
    assert satterthwaite(variances, df)[0] == pytest.approx(9 / (4 / 3 + 1 / 5))
    assert satterthwaite(variances[:1], df[:1])[0] == pytest.approx(3)


def test_heads_that_vary_more_can_widen_an_interval_and_heads_that_vary_less_never_narrow_it(rng):
    base = [rng.standard_normal((3, 20, 1)) * 0.01 + rng.standard_normal((3, 1, 1)) for _ in range(2)]
    alone = difference_of([spread_of(each) for each in base], 0, 1).seeds[0]
    for scale, is_wider in ((0.01, False), (100.0, True)):
        other = spread_of(scale * rng.standard_normal((3, 1, 1)) + np.zeros((3, 20, 1)))
        beside = difference_of([*(spread_of(each) for each in base), other], 0, 1).seeds[0]
        assert (beside > 1.01 * alone) == is_wider
        assert beside >= alone - 1e-12
