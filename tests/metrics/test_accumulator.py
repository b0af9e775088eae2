"""Counts of an evaluation, of its images and of its shards."""

from pathlib import Path

import numpy as np
import pytest

from segnl.core.errors import DataError
from segnl.metrics.accumulator import Accumulator, PerImage, load_per_image
from segnl.metrics.confusion import Confusion

K = 3
HW = (11, 7)
ADE20K_CLASSES = 150


def maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2, 255], HW).astype(np.uint8)
    return np.where(rng.random(HW) < 0.3, rng.integers(0, K, HW), label % K).astype(np.uint8), label


def accumulated(seeds: range) -> Accumulator:
    accumulator = Accumulator(K, with_strata=True)
    for seed in seeds:
        accumulator.add(f"image{seed}", *maps(seed))
    return accumulator


def test_the_matrix_the_images_and_the_strata_count_the_same_pixels() -> None:
    accumulator = accumulated(range(4))
    matrix = np.zeros((K, K + 1), np.int64)
    for seed in range(4):
        for pred, label in zip(*(values.ravel() for values in maps(seed)), strict=True):
            if label != 255:
                matrix[label, pred] += 1
    np.testing.assert_array_equal(accumulator.confusion.matrix, matrix)
    np.testing.assert_array_equal(accumulator.per_image.total().matrix, matrix)
    assert accumulator.strata is not None
    np.testing.assert_array_equal(accumulator.strata.counts["row"].sum(0), matrix)


def test_shards_add_up_to_the_whole() -> None:
    whole, merged = accumulated(range(5)), accumulated(range(0, 5, 2))
    merged.merge(accumulated(range(1, 5, 2)))
    np.testing.assert_array_equal(merged.confusion.matrix, whole.confusion.matrix)
    assert merged.per_image.sample_ids == whole.per_image.sample_ids
    assert merged.strata is not None
    assert whole.strata is not None
    assert merged.strata.to_dict() == whole.strata.to_dict()


def test_an_image_counts_once_and_a_refused_one_not_at_all() -> None:
    accumulator = accumulated(range(2))
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
    np.testing.assert_array_equal(accumulator.confusion.matrix, accumulated(range(1)).confusion.matrix)


def counted(seeds: range) -> tuple[PerImage, Confusion]:
    per_image, confusion = PerImage(ADE20K_CLASSES), Confusion(ADE20K_CLASSES)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        pred, label = (
            rng.choice([0, seed % ADE20K_CLASSES, 149, 255], size=(7, 11)).astype(np.uint8) for _ in range(2)
        )
        confusion.update(pred, label)
        per_image.add(f"image_{seed:02}", Confusion(ADE20K_CLASSES).counts(pred, label))
    return per_image, confusion


def test_the_matrices_of_the_images_add_up_to_the_whole() -> None:
    per_image, confusion = counted(range(5))
    np.testing.assert_array_equal(per_image.total().matrix, confusion.matrix)
    intersection, union = per_image.overlaps()
    assert intersection.shape == union.shape == (5, ADE20K_CLASSES)
    expected = confusion.iou()
    present = np.isfinite(expected)
    np.testing.assert_array_equal(intersection.sum(0)[present] / union.sum(0)[present], expected[present])


def test_a_file_gives_the_same_back_and_is_small(tmp_path: Path) -> None:
    per_image, _ = counted(range(5))
    per_image.save(tmp_path / "per_image.npz")
    with np.load(tmp_path / "per_image.npz") as file:
        assert set(file) == {"stems", "num_classes", "image", "truth", "predicted", "pixels"}  # as docs/evaluation.md
    back = load_per_image(tmp_path / "per_image.npz")
    assert back.sample_ids == per_image.sample_ids
    for sample_id in per_image.sample_ids:
        np.testing.assert_array_equal(back.matrix(sample_id), per_image.matrix(sample_id))
    assert (tmp_path / "per_image.npz").stat().st_size < 4000  # dense matrices would be 900,000 bytes


def test_an_empty_file_comes_back_empty(tmp_path: Path) -> None:
    PerImage(3).save(tmp_path / "none.npz")
    back = load_per_image(tmp_path / "none.npz")
    assert len(back) == 0
    assert back.overlaps()[0].shape == (0, 3)


def test_ranks_that_finish_in_any_order_write_the_same_bytes(tmp_path: Path) -> None:
    first, second = counted(range(0, 5, 2))[0], counted(range(1, 5, 2))[0]
    second.merge(first)
    second.save(tmp_path / "merged.npz")
    counted(range(5))[0].save(tmp_path / "whole.npz")
    assert (tmp_path / "merged.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_the_worst_images_come_first_and_unlabelled_ones_not_at_all() -> None:
    per_image = PerImage(2)
    per_image.add("bad", np.array([[1, 3, 0], [0, 0, 0]]))
    per_image.add("good", np.array([[4, 0, 0], [0, 0, 0]]))
    per_image.add("unlabelled", np.zeros((2, 3), np.int64))
    per_image.add("ignored predicted", np.array([[2, 0, 2], [0, 0, 0]]))
    assert per_image.worst(2) == [("bad", 0.25), ("ignored predicted", 0.5)]
    assert [sample_id for sample_id, _ in per_image.worst(9)] == ["bad", "ignored predicted", "good"]


def test_per_image_refuses_an_image_seen_before_and_other_classes() -> None:
    per_image, _ = counted(range(2))
    with pytest.raises(ValueError, match="counted twice"):
        per_image.add("image_00", np.zeros((ADE20K_CLASSES, ADE20K_CLASSES + 1), np.int64))
    with pytest.raises(ValueError, match="by two ranks"):
        per_image.merge(counted(range(1, 3))[0])
    with pytest.raises(ValueError, match="shape"):
        per_image.add("other", np.zeros((3, 4), np.int64))


def test_a_flipped_bit_is_one_clear_error(tmp_path: Path) -> None:
    counted(range(5))[0].save(tmp_path / "per_image.npz")
    content = (tmp_path / "per_image.npz").read_bytes()
    errors = 0
    for offset in range(0, len(content), 7):
        data = bytearray(content)
        data[offset] ^= 4
        (tmp_path / "bad.npz").write_bytes(data)
        try:
            load_per_image(tmp_path / "bad.npz")
        except DataError:
            errors += 1
    assert errors > 20


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"not a zip file"])
def test_a_damaged_file_is_one_clear_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "per_image.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"per_image\.npz: cannot be read"):
        load_per_image(path)
    with pytest.raises(DataError, match=r"absent\.npz"):
        load_per_image(tmp_path / "absent.npz")
