"""Counts kept image by image."""

from pathlib import Path

import numpy as np
import pytest

from segnl.core.errors import DataError
from segnl.metrics.confusion import Confusion
from segnl.metrics.per_image import PerImage, load_per_image

K = 150


def counted(seeds: range) -> tuple[PerImage, Confusion]:
    kept, confusion = PerImage(K), Confusion(K)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        pred, label = (rng.choice([0, seed % K, 149, 255], size=(7, 11)).astype(np.uint8) for _ in range(2))
        confusion.update(pred, label)
        kept.add(f"image_{seed:02}", Confusion(K).counts(pred, label))
    return kept, confusion


def test_the_images_add_up_to_the_whole() -> None:
    kept, confusion = counted(range(5))
    np.testing.assert_array_equal(kept.total().matrix, confusion.matrix)
    right, union = kept.overlaps()
    assert right.shape == union.shape == (5, K)
    expected = confusion.iou()
    present = np.isfinite(expected)
    np.testing.assert_array_equal(right.sum(0)[present] / union.sum(0)[present], expected[present])


def test_a_file_gives_the_same_back_and_is_small(tmp_path: Path) -> None:
    kept, _ = counted(range(5))
    kept.save(tmp_path / "per_image.npz")
    back = load_per_image(tmp_path / "per_image.npz")
    assert back.sample_ids == kept.sample_ids
    for sample_id in kept.sample_ids:
        np.testing.assert_array_equal(back.matrix(sample_id), kept.matrix(sample_id))
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
    kept = PerImage(2)
    kept.add("bad", np.array([[1, 3, 0], [0, 0, 0]]))
    kept.add("good", np.array([[4, 0, 0], [0, 0, 0]]))
    kept.add("unlabelled", np.zeros((2, 3), np.int64))
    kept.add("void predicted", np.array([[2, 0, 2], [0, 0, 0]]))
    assert kept.worst(2) == [("bad", 0.25), ("void predicted", 0.5)]
    assert [sample_id for sample_id, _ in kept.worst(9)] == ["bad", "void predicted", "good"]


def test_an_image_counts_once() -> None:
    kept, _ = counted(range(2))
    with pytest.raises(ValueError, match="counted twice"):
        kept.add("image_00", np.zeros((K, K + 1), np.int64))
    with pytest.raises(ValueError, match="by two ranks"):
        kept.merge(counted(range(1, 3))[0])
    with pytest.raises(ValueError, match="expected the same"):
        kept.merge(PerImage(3))
    with pytest.raises(ValueError, match="shape"):
        kept.add("other", np.zeros((3, 4), np.int64))


def test_a_flipped_bit_is_one_clear_error(tmp_path: Path) -> None:
    counted(range(5))[0].save(tmp_path / "per_image.npz")
    whole = (tmp_path / "per_image.npz").read_bytes()
    faults = 0
    for place in range(0, len(whole), 7):
        data = bytearray(whole)
        data[place] ^= 4
        (tmp_path / "bad.npz").write_bytes(data)
        try:
            load_per_image(tmp_path / "bad.npz")
        except DataError:
            faults += 1
    assert faults > 20


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"not a zip file"])
def test_a_damaged_file_is_one_clear_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "per_image.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"per_image\.npz: cannot be read"):
        load_per_image(path)
    with pytest.raises(DataError, match=r"absent\.npz"):
        load_per_image(tmp_path / "absent.npz")
