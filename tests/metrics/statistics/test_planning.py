import numpy as np
import pytest
from scipy.special import ndtr

from segnl.metrics.statistics.planning import MAX_SEEDS, Looks, adjusted_p, nominal_alpha, seeds_needed
from segnl.metrics.statistics.variance import ALPHA, Estimate

NUM_SEEDS = (3, 4, 5, 6, 7, 8, 9, 10)


def looks_at(num_seeds):
    return Looks(tuple(range(3, num_seeds + 1)), 10)


def test_all_looks_together_reject_with_probability_alpha():
    """Means of growing numbers of normal observations, judged at each look; a plain test at every look for contrast."""
    observations = np.random.default_rng(0).standard_normal((100_000, 10))
    z = observations.cumsum(axis=1) / np.sqrt(np.arange(1, 11))
    p = 2 * ndtr(-np.abs(z[:, [n - 1 for n in NUM_SEEDS]]))
    levels = np.array([nominal_alpha(looks_at(n)) for n in NUM_SEEDS])
    assert (p < levels).any(axis=1).mean() == pytest.approx(ALPHA, abs=0.003)  # 4 standard errors
    assert (p < ALPHA).any(axis=1).mean() > 2 * ALPHA


def test_one_look_spends_all_of_alpha():
    assert nominal_alpha(None) == ALPHA
    assert nominal_alpha(Looks((3,), 3)) == pytest.approx(ALPHA)
    assert adjusted_p(0.0123, None) == 0.0123
    assert adjusted_p(0.0123, Looks((3,), 3)) == pytest.approx(0.0123)


@pytest.mark.parametrize("num_seeds", [3, 6, 10])
def test_the_adjusted_p_is_alpha_at_the_look_s_own_level_and_grows_with_p(num_seeds):
    level = nominal_alpha(looks_at(num_seeds))
    assert level < ALPHA
    assert adjusted_p(level, looks_at(num_seeds)) == pytest.approx(ALPHA)
    adjusted = [adjusted_p(p, looks_at(num_seeds)) for p in np.geomspace(1e-14, 1, 50)]
    assert all(np.diff(adjusted) >= 0)
    assert adjusted[-1] == 1
    assert all(adjusted_p(p, looks_at(num_seeds)) > p for p in (1e-14, 1e-5, 0.01, 0.3))


def estimate(value, seeds=1e-4, images=1e-6):
    return Estimate(*(np.array([x], float) for x in (value, seeds, 4.0, images, 99.0)))


def test_seeds_needed_are_a_range_that_ends_where_the_spread_may_be_larger():
    low, high = seeds_needed(estimate(0.015), (3, 3), 1)
    assert 4 <= low < high
    assert seeds_needed(estimate(0.02), (3, 3), 1)[1] < high < seeds_needed(estimate(0.015), (3, 3), 6)[1]


def test_no_seeds_are_named_for_a_difference_within_its_standard_error():
    assert seeds_needed(estimate(0.009), (3, 3), 1) is None


def test_more_seeds_than_most_are_not_named():
    assert seeds_needed(estimate(0.015, images=1e-4), (3, 3), 1) == (MAX_SEEDS, None)


@pytest.mark.parametrize("looks", [((), 3), ((3, 3), 5), ((4, 3), 5), ((3, 6), 5)])
def test_looks_that_are_no_plan_are_refused(looks):
    with pytest.raises(ValueError, match="expected ascending numbers"):
        Looks(*looks)
