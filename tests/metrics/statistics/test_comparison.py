from dataclasses import replace

import numpy as np
import pytest

from segnl.metrics.statistics.comparison import RunCounts, class_differences, compare_heads, holm
from segnl.metrics.statistics.planning import Looks
from segnl.metrics.statistics.variance import spread_of, unpaired_difference


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def counts(rng, n=30, k=4, *, accuracy=0.8, per_image=0.1):
    """One run's counts: each class has 50 to 200 pixels in each image, about `accuracy` of them correct."""
    target = rng.integers(50, 200, (n, k))
    share = np.clip(accuracy + per_image * rng.standard_normal((n, k)), 0, 1)
    intersection = np.floor(share * target).astype(np.int64)
    return RunCounts(intersection, target + rng.integers(0, 20, (n, k)))


def study(rng, runs=3, accuracies=(0.7, 0.7, 0.8), **options):
    """Heads a, b, ...; each run's level is off by about a hundredth."""
    levels = {"abcdefgh"[i]: level + 0.01 * rng.standard_normal(runs) for i, level in enumerate(accuracies)}
    return {head: [counts(rng, accuracy=level, **options) for level in values] for head, values in levels.items()}


def test_a_large_difference_is_found_and_none_between_equal_heads(rng):
    pairs = {(pair.a, pair.b): pair for pair in compare_heads(study(rng))}
    assert list(pairs) == [("b", "a"), ("c", "a"), ("c", "b")]
    assert pairs["c", "a"].is_separable
    assert 0 < pairs["c", "a"].low < pairs["c", "a"].difference < pairs["c", "a"].high
    assert pairs["c", "a"].seeds_needed is None
    assert not pairs["b", "a"].is_separable
    assert pairs["b", "a"].low < 0 < pairs["b", "a"].high
    assert pairs["b", "a"].p_holm >= pairs["b", "a"].p


def test_swapping_the_heads_changes_the_sign_and_nothing_else(rng):
    heads = study(rng, accuracies=(0.7, 0.74))
    (pair,) = compare_heads(heads)
    (swapped,) = compare_heads(dict(reversed(heads.items())))
    assert (swapped.difference, swapped.low, swapped.high) == pytest.approx((-pair.difference, -pair.high, -pair.low))
    assert swapped.p == pytest.approx(pair.p)


def test_one_seed_has_an_interval_for_images_only_and_no_p(rng):
    heads = study(rng, runs=1, accuracies=(0.7, 0.8))
    (pair,) = compare_heads(heads)
    assert (pair.low, pair.high, pair.p, pair.p_holm, pair.reason) == (None, None, None, None, "one seed")
    assert pair.images_low < pair.difference < pair.images_high
    # More seeds for one head alone change nothing: the other's spread stays unknown.
    (pair,) = compare_heads({"a": heads["a"] * 3, "b": heads["b"]})
    assert (pair.seeds_a, pair.seeds_b, pair.p, pair.reason) == (1, 3, None, "one seed")


def seeded(rng, seeds_of=None, *, alike=0.1):
    """Four heads of three seeds each, which move all heads together."""
    moves = alike * np.array([-1.0, 0.2, 0.8])
    levels = {"a": 0.70, "b": 0.70, "c": 0.71, "d": 0.72}
    heads = {}
    for head, level in levels.items():
        runs = [counts(rng, n=200, accuracy=level + move, per_image=0.02) for move in moves]
        seeds = (seeds_of or {}).get(head, (0, 1, 2))
        heads[head] = [replace(run, seed=seed) for run, seed in zip(runs, seeds, strict=True)]
    return heads


def test_runs_of_one_seed_that_score_alike_are_paired(rng):
    heads = seeded(rng)
    pairs = {(pair.a, pair.b): pair for pair in compare_heads(heads)}
    unpaired = {
        (pair.a, pair.b): pair
        for pair in compare_heads({name: [replace(run, seed=None) for run in runs] for name, runs in heads.items()})
    }
    assert all(pair.is_by_seed for pair in pairs.values())
    assert not any(pair.is_by_seed for pair in unpaired.values())
    for key, pair in pairs.items():
        assert pair.difference == pytest.approx(unpaired[key].difference)
        assert pair.high - pair.low < 0.2 * (unpaired[key].high - unpaired[key].low)
    assert pairs["d", "a"].is_separable
    assert not unpaired["d", "a"].is_separable
    assert not pairs["b", "a"].is_separable
    narrow = class_differences(heads, "d", "a")
    wide = class_differences(
        {name: [replace(run, seed=None) for run in runs] for name, runs in heads.items()}, "d", "a"
    )
    assert all(one.high - one.low < other.high - other.low for one, other in zip(narrow, wide, strict=True))


def test_the_order_in_which_runs_are_given_does_not_matter(rng):
    heads = seeded(rng)
    turned = heads | {"d": heads["d"][::-1]}
    assert compare_heads(turned) == compare_heads(heads)
    assert class_differences(turned, "d", "a") == class_differences(heads, "d", "a")


@pytest.mark.parametrize("seeds", [(0, 1, 3), (0, 1, None), (1, 1, 2), (1, 0, 2)])
def test_seeds_are_not_paired_where_heads_do_not_have_the_same_ones(rng, seeds):
    assert not any(pair.is_by_seed for pair in compare_heads(seeded(rng, {"b": seeds})))
    assert not any(pair.is_by_seed for pair in compare_heads(seeded(rng, dict.fromkeys("abcd", (1, 1, 2)))))


def test_seeds_are_not_paired_where_runs_of_one_seed_do_not_score_alike(rng):
    runs = study(rng, accuracies=(0.7, 0.7, 0.8, 0.8))
    heads = {head: [replace(run, seed=seed) for seed, run in enumerate(each)] for head, each in runs.items()}
    assert not any(pair.is_by_seed for pair in compare_heads(heads))


def test_a_head_of_one_seed_beside_paired_ones_keeps_its_interval_over_images(rng):
    heads = seeded(rng)
    heads["e"] = heads["a"][:1]
    pairs = {(pair.a, pair.b): pair for pair in compare_heads(heads)}
    assert pairs["e", "b"].reason == "one seed"
    assert pairs["b", "a"].is_by_seed


def test_fewer_seeds_are_asked_for_where_they_are_paired(rng):
    heads = seeded(rng)
    levels = (0.708 - 0.1, 0.698 + 0.02, 0.704 + 0.08)
    heads["d"] = [
        replace(counts(rng, n=200, accuracy=level, per_image=0.02), seed=seed) for seed, level in enumerate(levels)
    ]
    unpaired = {name: [replace(run, seed=None) for run in runs] for name, runs in heads.items()}
    needed = [
        next(pair.seeds_needed for pair in compare_heads(each) if (pair.a, pair.b) == ("d", "a"))
        for each in (heads, unpaired)
    ]
    assert 3 < needed[0][0] < 50
    assert needed[1] is None or needed[1][0] > needed[0][0]


def test_heads_with_unequal_numbers_of_seeds_are_compared(rng):
    heads = study(rng, runs=5, accuracies=(0.7, 0.8))
    (pair,) = compare_heads({"a": heads["a"][:2], "b": heads["b"]})
    (more,) = compare_heads(heads)
    assert pair.is_separable
    assert pair.high - pair.low > more.high - more.low


def test_one_image_gives_no_interval(rng):
    (pair,) = compare_heads(study(rng, accuracies=(0.7, 0.8), n=1))
    assert pair.difference is not None
    assert (pair.low, pair.images_low, pair.p, pair.reason) == (None, None, None, "one image")
    heads = study(rng, accuracies=(0.7, 0.8), n=1)
    assert all(each.low is None for each in class_differences(heads, "b", "a"))


def test_identical_scores_are_not_separable_and_have_an_interval_of_no_width(rng):
    runs = [counts(rng) for _ in range(3)]
    (pair,) = compare_heads({"a": runs, "b": runs})
    assert (pair.difference, pair.low, pair.high, pair.p, pair.p_holm) == (0, 0, 0, 1, 1)
    assert pair.reason == "identical in every image"
    (pair,) = compare_heads({"a": runs[:1], "b": runs[:1]})
    assert (pair.low, pair.images_low, pair.p, pair.reason) == (None, 0, None, "one seed")


def test_seeds_that_all_scored_the_same_are_no_measure_of_seeds(rng):
    one, other = counts(rng), counts(rng, accuracy=0.6)
    (pair,) = compare_heads({"a": [one] * 3, "b": [other] * 3})
    assert pair.reason == "every seed of b and a scored the same"
    assert pair.p is pair.low is None
    assert pair.images_low < pair.images_high
    (pair,) = compare_heads({"a": [one] * 3, "b": [counts(rng, accuracy=level) for level in (0.5, 0.6, 0.61)]})
    assert pair.reason == "every seed of a scored the same"  # the other head's spread does not stand for it
    assert pair.p is pair.low is None


def test_a_head_without_a_run_and_a_split_without_labels_are_not_comparable(rng):
    runs = [counts(rng) for _ in range(2)]
    pairs = compare_heads({"a": runs, "b": [], "c": runs})
    assert pairs[0].difference is None
    assert pairs[0].reason == "no run of b counts"
    assert pairs[1].difference == 0
    nothing = RunCounts(np.zeros((5, 3), np.int64), np.zeros((5, 3), np.int64))
    (pair,) = compare_heads({"a": [nothing] * 2, "b": [nothing] * 2})
    assert (pair.difference, pair.reason) == (None, "no labelled pixel")


def test_a_class_that_is_nowhere_is_left_out_and_has_no_difference(rng):
    heads = study(rng, accuracies=(0.7, 0.8))
    wider = {
        head: [
            RunCounts(np.pad(run.intersection, ((0, 0), (0, 1))), np.pad(run.union, ((0, 0), (0, 1)))) for run in runs
        ]
        for head, runs in heads.items()
    }
    (pair,), (padded,) = compare_heads(heads), compare_heads(wider)
    assert (padded.difference, padded.p) == pytest.approx((pair.difference, pair.p))
    *known, absent = class_differences(wider, "b", "a")
    assert (absent.difference, absent.low, absent.high) == (None, None, None)
    assert all(each.low < each.difference < each.high and each.is_about_heads for each in known)


def test_class_differences_of_one_seed_say_that_they_are_about_images(rng):
    differences = class_differences(study(rng, runs=1, accuracies=(0.7, 0.8)), "b", "a")
    assert not any(difference.is_about_heads for difference in differences)
    assert all(difference.low < difference.difference < difference.high for difference in differences)
    assert class_differences({"a": [], "b": [counts(rng)]}, "b", "a") == []


def test_class_differences_average_to_the_difference_of_the_miou(rng):
    heads = study(rng, accuracies=(0.7, 0.8))
    (pair,) = compare_heads(heads)
    assert np.mean([each.difference for each in class_differences(heads, "b", "a")]) == pytest.approx(pair.difference)


def test_the_public_names_are_importable_from_metrics():
    import segnl.metrics

    assert segnl.metrics.compare_heads is compare_heads
    assert segnl.metrics.RunCounts is RunCounts
    with pytest.raises(AttributeError, match="no attribute 'compare'"):
        segnl.metrics.compare  # noqa: B018


def test_counts_of_other_images_are_refused(rng):
    with pytest.raises(ValueError, match="expected the same images and classes in every run"):
        compare_heads({"a": [counts(rng, n=5)], "b": [counts(rng, n=6)]})
    run = counts(rng, n=5)
    with pytest.raises(ValueError, match="expected the same images and classes in every run"):
        compare_heads({"a": [replace(run, intersection=run.intersection[:, :2], union=run.union[:, :2])], "b": [run]})


def test_holm_multiplies_step_by_step_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, None]) == pytest.approx([0.03, 0.06, 0.06, None])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_more_seeds_are_asked_for_the_smaller_the_difference(rng):
    needed = []
    for gain in (0.012, 0.02):
        levels = {"a": (0.69, 0.70, 0.71), "b": (0.69 + gain, 0.70 + gain, 0.71 + gain)}
        noise, heads = np.random.default_rng(3), {}
        for head, values in levels.items():
            heads[head] = [counts(noise, n=400, accuracy=level, per_image=0.01) for level in values]
        (pair,) = compare_heads(heads)
        assert not pair.is_separable
        needed.append(pair.seeds_needed)
    assert needed[0][0] > needed[1][0] > 3
    assert all(high is None or high > low for low, high in needed)


def test_no_number_of_seeds_settles_what_the_images_leave_open(rng):
    union = np.full((8, 3), 10_000)
    by_image = {head: rng.uniform(0.4, 0.9, (8, 1)) for head in ("a", "b")}  # the same for every seed of a head
    heads = {
        head: [RunCounts((union * (share + 0.01 * seed)).astype(np.int64), union) for seed in range(3)]
        for head, share in by_image.items()
    }
    (pair,) = compare_heads(heads)
    assert not pair.is_separable
    assert pair.seeds_needed is None
    assert pair.needs_images


def test_a_difference_that_is_next_to_nothing_beside_the_seeds_does_not_ask_for_images():
    noise, levels = np.random.default_rng(3), {"a": (0.5, 0.6, 0.7), "b": (0.505, 0.605, 0.705)}
    heads = {
        head: [counts(noise, n=4000, accuracy=level, per_image=0.01) for level in values]
        for head, values in levels.items()
    }
    (pair,) = compare_heads(heads)
    assert not pair.is_separable
    assert pair.seeds_needed is None
    assert not pair.needs_images


def with_target(heads, extra=0):
    """The same runs with labels: every class of `counts` is in every image; `extra` classes are in no label."""
    target = np.max([run.intersection + 1 for runs in heads.values() for run in runs], axis=0)

    def labelled(run):
        counts = run.intersection, np.maximum(run.union, target), target
        intersection, union, widened = (np.pad(own, ((0, 0), (0, extra))) for own in counts)
        return RunCounts(intersection, union, target=widened)

    return {head: [labelled(run) for run in runs] for head, runs in heads.items()}


def test_a_stray_pixel_of_a_class_without_ground_truth_moves_no_verdict(rng):
    heads = with_target(study(rng, accuracies=(0.7, 0.75)), extra=1)
    (clean,) = compare_heads(heads)
    heads["b"][0].union[3, 4] = 1
    (pair,) = compare_heads(heads)
    assert (pair.difference, pair.low, pair.p) == pytest.approx((clean.difference, clean.low, clean.p))
    assert clean.by_score == pytest.approx(clean.difference)
    assert pair.by_score < pair.difference - 0.04  # one run of three has a class of IoU 0 among five


def test_a_class_that_decides_a_verdict_alone_is_named(rng):
    heads = with_target(study(rng, accuracies=(0.7, 0.7)))
    (pair,) = compare_heads(heads)
    assert pair.decisive_class is None
    for run in heads["b"]:
        run.intersection[:, 2] = run.union[:, 2]
    (pair,) = compare_heads(heads)
    assert pair.is_separable
    assert pair.decisive_class == 2


def test_a_class_in_one_image_is_named_and_has_no_interval(rng):
    heads = with_target(study(rng))
    for run in (run for runs in heads.values() for run in runs):
        for array in (run.intersection, run.union, run.target):
            array[1:, 3] = 0
    assert {pair.single_classes for pair in compare_heads(heads)} == {(3,)}
    *others, single = class_differences(heads, "b", "a")
    assert single.difference is not None
    assert single.low is None
    assert all(difference.low is not None for difference in others)


def test_frames_of_a_group_count_as_one_image(rng):
    """Repeating every image adds no information; without groups the interval over images would be narrower."""
    heads = study(rng, accuracies=(0.7, 0.72), per_image=0.3, n=20)
    frames = {
        head: [RunCounts(np.repeat(run.intersection, 3, axis=0), np.repeat(run.union, 3, axis=0)) for run in runs]
        for head, runs in heads.items()
    }
    (expected,), (naive,) = compare_heads(heads), compare_heads(frames)
    (pair,) = compare_heads(frames, groups=[i // 3 for i in range(60)])
    assert (pair.low, pair.high, pair.p) == pytest.approx((expected.low, expected.high, expected.p))
    assert pair.num_groups == 20
    assert naive.images_high - naive.images_low < 0.7 * (pair.images_high - pair.images_low)
    by_class = class_differences(frames, "b", "a", groups=[i // 3 for i in range(60)])
    for own, of_image in zip(by_class, class_differences(heads, "b", "a"), strict=True):
        assert (own.low, own.high) == pytest.approx((of_image.low, of_image.high))


def test_one_group_is_judged_by_its_seeds_alone(rng):
    """Nothing shows how other groups would differ: the interval is that of the runs' scores."""
    heads = study(rng, accuracies=(0.7, 0.72))
    (pair,) = compare_heads(heads, groups=["drive"] * 30)
    scores = {name: [(run.intersection.sum(0) / run.union.sum(0)).mean() for run in heads[name]] for name in ("b", "a")}
    spreads = [spread_of(np.array(own)[:, None, None]) for own in scores.values()]
    estimate = unpaired_difference(spreads, 0, 1)
    assert pair.p == pytest.approx(estimate.p()[0])
    assert pair.high - pair.difference == pytest.approx(estimate.half_width()[0])
    assert estimate.seeds[0] == pytest.approx(sum(np.var(own, ddof=1) / 3 for own in scores.values()))
    assert (pair.num_groups, pair.images_low) == (1, None)


def test_against_the_control_there_are_fewer_pairs_and_a_weaker_correction(rng):
    heads = study(rng, accuracies=(0.7, 0.7, 0.71, 0.72))
    pairs = compare_heads(heads, against="a")
    assert [(pair.a, pair.b) for pair in pairs] == [("b", "a"), ("c", "a"), ("d", "a")]
    of_all = {(pair.a, pair.b): pair for pair in compare_heads(heads)}
    for pair in pairs:
        assert pair.p == of_all[pair.a, pair.b].p
        assert pair.p_holm <= of_all[pair.a, pair.b].p_holm
    with pytest.raises(ValueError, match="no head 'z'; expected one of a, b, c, d"):
        compare_heads(heads, against="z")


def test_planned_looks_widen_the_interval_and_raise_p(rng):
    heads = study(rng, accuracies=(0.7, 0.72))
    (once,), (early,) = compare_heads(heads), compare_heads(heads, looks=Looks((3,), 5))
    assert early.p == once.p
    assert early.p_holm > once.p_holm
    assert early.high - early.low > once.high - once.low
    assert not early.is_out_of_reach
    (hopeless,) = compare_heads({"a": heads["a"], "b": heads["a"][1:] + study(rng)["a"][:1]}, looks=Looks((3,), 4))
    assert hopeless.is_out_of_reach


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda own: {"intersection": -own.intersection}, "no mask can have"),
        (lambda own: {"intersection": own.union, "union": own.intersection}, "no mask can have"),
        (lambda own: {"target": own.union + 1}, "no mask can have"),
        (lambda own: {"intersection": own.intersection.astype(np.uint8)}, "uint8 of shape .*; expected a NumPy array"),
        (lambda own: {"intersection": own.intersection / 1}, "float64 of shape .*; expected a NumPy array"),
        (lambda own: {"intersection": own.intersection.tolist()}, "list of shape .*; expected a NumPy array"),
        (lambda own: {"union": own.union[:, :2]}, "expected the same of one run"),
    ],
)
def test_counts_that_no_mask_can_have_are_refused(rng, changed, message):
    own = counts(rng)
    with pytest.raises(ValueError, match=message):
        replace(own, **changed(own))


def test_runs_on_other_labels_are_refused(rng):
    own = counts(rng)
    runs = [replace(own, target=own.union), replace(own, target=own.intersection)]
    with pytest.raises(ValueError, match="score every run against the same labels"):
        compare_heads({"a": runs, "b": runs})
