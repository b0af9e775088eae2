"""Accuracies by region and by offset against loops, and what is said about them."""

import numpy as np
import pytest

from segnl.metrics.statistics.comparison import Comparison
from segnl.studies.probe_results import (
    Accuracy,
    Reach,
    Sight,
    TargetCounts,
    accuracy_map,
    comparison_sentence,
    reach_sentence,
    regions_of,
    sight_sentence,
    task_results,
)

H, W = 5, 7
REACH = Reach(1, 2)


def counts(seed: int, *, images: int = 40, always: float | None = None) -> TargetCounts:
    random = np.random.default_rng(seed)
    offsets = np.stack([random.integers(1 - H, H, (images, 3)), random.integers(1 - W, W, (images, 3))], axis=-1)
    correct = random.integers(0, 17, (images, 3)) if always is None else np.full((images, 3), round(16 * always))
    return TargetCounts(correct, 16, offsets)


def test_a_region_is_decided_by_rows_and_columns() -> None:
    own = counts(0)
    assert own.offsets is not None
    regions = regions_of(own.offsets, REACH, own.correct.shape)
    for image, target in np.ndindex(own.correct.shape):
        row, column = np.abs(own.offsets[image, target])
        near = row <= 1 and column <= 2
        assert regions["near"][image, target] == near
        assert regions["cross"][image, target] == (not near and (row == 0 or column == 0))
        assert regions["off"][image, target] == (row > 1 and column > 2)
    assert regions["all"].all()
    assert list(regions_of(None, REACH, (4, 3))) == ["all"]


def test_the_map_is_the_correct_fraction_at_each_offset() -> None:
    runs = [counts(seed) for seed in range(3)]
    values = accuracy_map(runs, (H, W))
    assert values is not None
    assert values.shape == (2 * H - 1, 2 * W - 1)
    for row, column in np.ndindex(values.shape):
        pixels = [
            (own.correct[place], 16)
            for own in runs
            for place in np.ndindex(own.correct.shape)
            if own.offsets is not None and tuple(own.offsets[place]) == (row - H + 1, column - W + 1)
        ]
        if not pixels:
            assert np.isnan(values[row, column])
        else:
            assert values[row, column] == pytest.approx(np.sum(pixels, axis=0)[0] / np.sum(pixels, axis=0)[1])


def test_counts_of_a_region_have_its_accuracy() -> None:
    own = counts(0)
    region = regions_of(own.offsets, REACH, own.correct.shape)["off"]
    run = own.run_counts(region, seed=3)
    assert run.intersection.sum() / run.union.sum() == pytest.approx(own.accuracy(region))
    assert run.seed == 3
    assert run.intersection.shape == (40, 1)


def test_the_interval_is_that_of_a_t_distribution() -> None:
    accuracy = Accuracy.of([0.5, 0.6, 0.7])
    half = 4.302653 * 0.1 / 3**0.5  # 97.5 % of t with two degrees of freedom
    assert (accuracy.mean, accuracy.low, accuracy.high) == pytest.approx((0.6, 0.6 - half, 0.6 + half))
    assert Accuracy.of([0.5]) == Accuracy((0.5,), None, None)
    assert Accuracy.of([0.9, 1.0]).high == 1.0


def test_a_head_that_is_better_in_every_seed_is_said_to_be_better() -> None:
    good = {seed: TargetCounts(np.minimum(16, own.correct + 9), 16, own.offsets) for seed, own in runs_of(5).items()}
    results = task_results("reach", {"fcn": runs_of(0), "rcca": good}, REACH, (H, W))
    assert set(results.pairs) == {"cross", "off"}
    assert all(pair.is_separable and pair.a == "rcca" for pairs in results.pairs.values() for pair in pairs)
    text = comparison_sentence("off", results.pairs["off"])
    assert text.endswith("beyond the convolutions): rcca is significantly better than fcn (3 seeds per head).")


def test_the_summary_claims_only_what_is_significant_or_at_chance() -> None:
    def pair(a: str, b: str, p: float) -> Comparison:
        return Comparison(a, b, 3, 3, 0.5, p=p, p_holm=p)

    def sight(name: str, cross: float, off: float) -> Sight:
        return Sight(name, 3, {"cross": Accuracy.of([cross]), "off": Accuracy.of([off])}, None)

    cross = [pair("rcca", "fcn", 0.001), pair("rcca_r1", "fcn", 0.001), pair("gc", "fcn", 0.4)]
    off = [pair("rcca", "fcn", 0.001), pair("rcca_r1", "fcn", 0.9), pair("rcca", "rcca_r1", 0.001)]
    off += [pair("gc", "fcn", 0.4)]
    sights = [sight("fcn", 0.31, 0.34), sight("rcca_r1", 0.98, 0.31), sight("rcca", 0.98, 0.98), sight("gc", 0.5, 0.5)]
    assert reach_sentence({"cross": cross, "off": off}, sights) == (
        "rcca uses a cue from anywhere in the image; rcca_r1 only in the target's row and column, or nearby; "
        "fcn only nearby; open for gc."
    )
    assert reach_sentence({"cross": cross, "off": [pair("rcca", "fcn", 0.9)]}, sights) == ""


def runs_of(first: int) -> dict[int, TargetCounts]:
    """Three runs on the same images and targets."""
    offsets = counts(0).offsets
    return {seed: TargetCounts(counts(first + seed).correct, 16, offsets) for seed in range(3)}


def test_one_seed_says_nothing_about_the_heads() -> None:
    pairs = [Comparison("rcca", "fcn", 1, 1, 0.5, reason="one seed")]
    assert "this says nothing about the heads" in comparison_sentence("off", pairs)


def test_the_words_for_a_head_name_chance_where_it_is() -> None:
    accuracy = {"cross": Accuracy.of([0.98, 0.99, 0.99]), "off": Accuracy.of([0.31, 0.34, 0.36])}
    assert sight_sentence(Sight("rcca_r1", 3, accuracy, None)) == "cross 99 %, off at chance (34 %)"
    assert sight_sentence(Sight("rcca", 3, {"off": Accuracy.of([0.2, 0.9, 0.9])}, None)) == "off 67 %"
