import itertools

import numpy as np
import pytest

from segnl.metrics.confusion import Confusion
from segnl.metrics.statistics.contributions import class_contributions, group_sums, mean_over_classes
from segnl.metrics.statistics.variance import (
    AGREEMENT,
    BORROWED_DF,
    MIN_PAIRED_HEADS,
    paired_difference,
    satterthwaite,
    seeds_agree,
    spread_of,
    unpaired_difference,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def counts(rng, n, *, accuracy=0.8):
    """One run's pixels in intersection and union, each `n 4`: about `accuracy` of the labelled ones are correct."""
    target = rng.integers(50, 200, (n, 4))
    share = np.clip(accuracy + 0.1 * rng.standard_normal((n, 4)), 0, 1)
    return np.floor(share * target).astype(np.int64), target + rng.integers(0, 20, (n, 4))


def slow_miou(intersection, union):
    """The mean over classes of the ratio of sums, one loop inside another."""
    iou = []
    for c in range(intersection.shape[1]):
        total = sum(int(value) for value in union[:, c])
        if total:
            iou.append(sum(int(value) for value in intersection[:, c]) / total)
    return sum(iou) / len(iou)


def test_contributions_average_to_the_score_that_the_confusion_matrix_gives(rng):
    label = rng.integers(0, 5, (6, 20, 20))
    pred = np.where(rng.random(label.shape) < 0.7, label, rng.integers(0, 5, label.shape))
    whole = Confusion(7)  # classes 5 and 6 are nowhere
    single = [Confusion(7) for _ in label]
    for confusion, p, t in zip(single, pred, label, strict=True):
        confusion.update(p, t)
        whole.update(p, t)
    intersection = np.stack([confusion.intersection() for confusion in single])
    union = np.stack([confusion.union() for confusion in single])
    assert mean_over_classes(class_contributions(intersection, union)).mean() == pytest.approx(whole.miou(), abs=1e-14)
    np.testing.assert_allclose(class_contributions(intersection, union).mean(axis=0), whole.iou(), atol=1e-14)


def test_the_variance_over_images_is_exactly_the_jackknife_s(rng):
    """Also where a class is in two images alone, and sizes are very unequal."""
    intersection, union = np.stack([np.stack(counts(rng, n=40, accuracy=level)) for level in (0.8, 0.7)]).swapaxes(0, 1)
    sizes = np.exp(rng.standard_normal((40, 1))) * (rng.random((40, 4)) < (1, 0.9, 0.5, 0)) + np.eye(40, 4, -5) * 3
    sizes[7, 3] = 2.0
    intersection, union = np.floor(intersection * sizes), np.floor(union * sizes)
    contributions = [mean_over_classes(class_contributions(*run)) for run in zip(intersection, union, strict=True)]
    spreads = [spread_of(of_head[None, :, None]) for of_head in contributions]
    left_out = []
    for i in range(40):
        keep = np.arange(40) != i
        scores = [slow_miou(intersection[head][keep], union[head][keep]) for head in (0, 1)]
        left_out.append(scores[0] - scores[1])
    jackknife = 39 / 40 * sum((value - np.mean(left_out)) ** 2 for value in left_out)
    estimate = unpaired_difference(spreads, 0, 1, with_seeds=False)
    assert estimate.variance[0] == pytest.approx(jackknife, rel=1e-9)


def test_a_contribution_stays_finite_where_one_image_holds_all_of_a_class(rng):
    intersection, union = counts(rng, n=12)
    union[1:, 2] = intersection[1:, 2] = 0
    by_class = class_contributions(intersection, union)
    assert np.isfinite(by_class).all()
    np.testing.assert_allclose(by_class[:, 2], intersection[0, 2] / union[0, 2])


def test_group_sums_add_the_images_of_a_group_in_any_order():
    sums = group_sums(np.array([[1, 2], [3, 4], [5, 6]]), ["b", "a", "b"])
    np.testing.assert_array_equal(sums, [[6, 8], [3, 4]])
    with pytest.raises(ValueError, match="groups: 2 for 3 images; expected one for each image"):
        group_sums(np.zeros((3, 2), int), ["a", "b"])


def test_the_variance_is_that_of_seeds_and_images_without_counting_their_interaction_twice(rng):
    """Two heads, whose mean squares are written out with loops as in a textbook's two-way layout."""
    n, s = 15, 4
    contributions = [rng.standard_normal((s, n)) + 3 * rng.standard_normal((s, 1)) for _ in range(2)]
    estimate = unpaired_difference([spread_of(values[:, :, None]) for values in contributions], 0, 1)
    between_seeds, interaction = 0.0, 0.0
    for z in contributions:
        mean = z.mean()
        between_seeds += sum((z[j].mean() - mean) ** 2 for j in range(s)) / (s - 1) / s
        squares = [
            (z[j, i] - z[j].mean() - z[:, i].mean() + mean) ** 2 for j, i in itertools.product(range(s), range(n))
        ]
        interaction += sum(squares) / ((s - 1) * (n - 1)) / (s * n)
    by_image = [contributions[0][:, i].mean() - contributions[1][:, i].mean() for i in range(n)]
    images = sum((value - np.mean(by_image)) ** 2 for value in by_image) / (n - 1) / n
    assert estimate.seeds[0] == pytest.approx(between_seeds)
    assert estimate.variance[0] == pytest.approx(between_seeds + max(0, images - interaction))


def test_satterthwaite_gives_welch_s_degrees_of_freedom():
    variances, df = [np.array([2.0]), np.array([1.0])], [np.array([3.0]), np.array([5.0])]
    assert satterthwaite(variances, df)[0] == pytest.approx(9 / (4 / 3 + 1 / 5))
    assert satterthwaite(variances[:1], df[:1])[0] == pytest.approx(3)


def test_heads_that_vary_more_can_widen_an_interval_and_heads_that_vary_less_never_narrow_it(rng):
    base = [rng.standard_normal((3, 20, 1)) * 0.01 + rng.standard_normal((3, 1, 1)) for _ in range(2)]
    alone = unpaired_difference([spread_of(values) for values in base], 0, 1).seeds[0]
    for scale, is_wider in ((0.01, False), (100.0, True)):
        other = spread_of(scale * rng.standard_normal((3, 1, 1)) + np.zeros((3, 20, 1)))
        beside = unpaired_difference([*(spread_of(values) for values in base), other], 0, 1).seeds[0]
        assert (beside > 1.01 * alone) == is_wider
        assert beside >= alone - 1e-12


def layout(rng, *, alike, heads=4, s=3, n=20, own=0.3):
    """Contributions `s n 1` of each head. alike, own: spread of what a seed does to all heads, and to each alone."""
    common = alike * rng.standard_normal((s, 1))
    return [
        (common + own * rng.standard_normal((s, 1)) + rng.standard_normal((s, n)))[:, :, None] for _ in range(heads)
    ]


def test_two_heads_seed_by_seed_are_the_one_sample_t_of_their_differences(rng):
    """Mean squares by loops over the runs' differences; two heads alone have no other pair to borrow from."""
    s, n = 4, 15
    a, b = layout(rng, alike=5.0, heads=2, s=s, n=n)
    estimate = paired_difference([a, b], 0, 1)
    d = (a - b)[:, :, 0]
    mean = d.mean()
    between_seeds = sum((d[j].mean() - mean) ** 2 for j in range(s)) / (s - 1) / s
    squares = [(d[j, i] - d[j].mean() - d[:, i].mean() + mean) ** 2 for j, i in itertools.product(range(s), range(n))]
    interaction = sum(squares) / ((s - 1) * (n - 1)) / (s * n)
    images = sum((d[:, i].mean() - mean) ** 2 for i in range(n)) / (n - 1) / n
    assert estimate.value[0] == pytest.approx(mean)
    assert estimate.seeds[0] == pytest.approx(max(between_seeds, interaction))
    assert estimate.images[0] == pytest.approx(max(0, images - interaction))
    assert estimate.seeds_df[0] == s - 1


def test_the_common_effect_of_a_seed_cancels_in_a_paired_difference(rng):
    contributions = layout(rng, alike=0.0)
    moved = [values + np.array([-7.0, 0.0, 9.0])[:, None, None] for values in contributions]
    plain, shifted = paired_difference(contributions, 0, 1), paired_difference(moved, 0, 1)
    np.testing.assert_allclose(shifted.variance, plain.variance)
    assert unpaired_difference([spread_of(values) for values in moved], 0, 1).variance[0] > 10 * plain.variance[0]


def test_other_pairs_that_vary_more_can_widen_a_paired_interval_and_never_narrow_it(rng):
    contributions = layout(rng, alike=5.0, heads=2)
    alone = paired_difference(contributions, 0, 1).seeds[0]
    between = (contributions[0] + contributions[1]) / 2  # its pairs with the two vary less than theirs
    for third, is_wider in ((between, False), (layout(rng, alike=0.0, heads=1, own=100.0)[0], True)):
        beside = paired_difference([*contributions, third], 0, 1)
        assert beside.seeds_df[0] == 2 + BORROWED_DF
        assert (beside.seeds[0] > 1.5 * alone) == is_wider
        assert beside.seeds[0] >= alone - 1e-12


def test_seeds_agree_by_chance_at_the_stated_level_and_nearly_always_when_they_do(rng):
    for alike, lowest, highest in ((0.0, 0.2 * AGREEMENT, 2 * AGREEMENT), (3.0, 0.9, 1.0)):
        runs = 3000
        common = alike * rng.standard_normal((3, 1, runs))
        contributions = [common + 0.3 * rng.standard_normal((3, 1, runs)) for _ in range(4)]
        assert lowest <= seeds_agree(contributions).mean() <= highest


def test_seeds_of_few_heads_or_of_one_run_agree_with_nothing(rng):
    for heads in range(1, MIN_PAIRED_HEADS):
        assert not seeds_agree(layout(rng, alike=50.0, heads=heads)).any()
    assert not seeds_agree(layout(rng, alike=5.0, s=1)).any()
    assert not seeds_agree([np.zeros((3, 5, 1))] * 4).any()  # nothing varies at all
