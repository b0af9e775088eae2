"""Everything an evaluation counts, and its shards."""

import numpy as np
import pytest

from segnl.metrics.accumulator import Accumulator

K = 3
HW = (11, 7)


def maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2, 255], HW).astype(np.uint8)
    return np.where(rng.random(HW) < 0.3, rng.integers(0, K, HW), label % K).astype(np.uint8), label


def tallied(seeds: range) -> Accumulator:
    accumulator = Accumulator(K, with_strata=True)
    for seed in seeds:
        accumulator.add(f"image{seed}", *maps(seed))
    return accumulator


def test_the_matrix_the_images_and_the_strata_count_the_same_pixels() -> None:
    accumulator = tallied(range(4))
    matrix = np.zeros((K, K + 1), np.int64)
    for seed in range(4):
        for predicted, truth in zip(*(values.ravel() for values in maps(seed)), strict=True):
            if truth != 255:
                matrix[truth, predicted] += 1
    np.testing.assert_array_equal(accumulator.confusion.matrix, matrix)
    np.testing.assert_array_equal(accumulator.per_image.total().matrix, matrix)
    assert accumulator.strata is not None
    np.testing.assert_array_equal(accumulator.strata.counts["row"].sum(0), matrix)


def test_shards_add_up_to_the_whole() -> None:
    whole, merged = tallied(range(5)), tallied(range(0, 5, 2))
    merged.merge(tallied(range(1, 5, 2)))
    np.testing.assert_array_equal(merged.confusion.matrix, whole.confusion.matrix)
    assert merged.per_image.sample_ids == whole.per_image.sample_ids
    assert merged.strata is not None
    assert whole.strata is not None
    assert merged.strata.as_json() == whole.strata.as_json()


def test_an_image_counts_once_and_a_refused_one_not_at_all() -> None:
    accumulator = tallied(range(2))
    before = accumulator.confusion.matrix.copy()
    with pytest.raises(ValueError, match="counted twice"):
        accumulator.add("image1", *maps(1))
    with pytest.raises(ValueError, match="holds 9"):
        accumulator.add("other", np.full(HW, 9, np.uint8), np.zeros(HW, np.uint8))
    np.testing.assert_array_equal(accumulator.confusion.matrix, before)
    with pytest.raises(ValueError, match="one of the two only"):
        accumulator.merge(Accumulator(K))


def test_tensors_are_counted_as_arrays_are() -> None:
    import torch

    accumulator, pred_label = Accumulator(K, with_strata=True), maps(0)
    accumulator.add("image0", torch.from_numpy(pred_label[0]), pred_label[1])
    np.testing.assert_array_equal(accumulator.confusion.matrix, tallied(range(1)).confusion.matrix)
