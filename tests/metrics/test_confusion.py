"""Counting and the scores, against loops."""

import numpy as np
import pytest
import torch

import segnl.metrics.confusion as module
from segnl.core import IGNORE
from segnl.metrics.confusion import Confusion

K = 3


def maps(seed: int, shape: tuple[int, ...] = (7, 11)) -> tuple[np.ndarray, np.ndarray]:
    """Predictions 0..2 with some void, labels of 0..1 with some void: class 2 is absent from the truth."""
    rng = np.random.default_rng(seed)
    pred = rng.choice([0, 1, 2, IGNORE], size=shape, p=[0.4, 0.3, 0.2, 0.1]).astype(np.uint8)
    label = rng.choice([0, 1, IGNORE], size=shape, p=[0.5, 0.3, 0.2]).astype(np.uint8)
    return pred, label


def counted_by_loop(pred: np.ndarray, label: np.ndarray) -> np.ndarray:
    matrix = np.zeros((K, K + 1), np.int64)
    for p, t in zip(pred.ravel().tolist(), label.ravel().tolist(), strict=True):
        if t != IGNORE:
            matrix[t, K if p == IGNORE else p] += 1
    return matrix


@pytest.mark.parametrize("shape", [(7, 11), (2, 7, 11), (13,), (1,), (0, 5)])
def test_the_matrix_is_what_a_loop_over_pixels_counts(shape: tuple[int, ...]) -> None:
    pred, label = maps(0, shape)
    confusion = Confusion(K)
    confusion.update(pred, label)
    confusion.update(pred, label)
    np.testing.assert_array_equal(confusion.matrix, 2 * counted_by_loop(pred, label))
    assert confusion.matrix.dtype == np.int64
    assert confusion.matrix.shape == (K, K + 1)


@pytest.mark.parametrize("kind", ["int16", "uint16", "int32", "int64"])
def test_wider_integers_and_torch_tensors_count_the_same(kind: str) -> None:
    pred, label = maps(1, (2, 7, 11))
    expected = counted_by_loop(pred, label)
    np.testing.assert_array_equal(Confusion(K).counts(pred.astype(kind), label), expected)
    np.testing.assert_array_equal(Confusion(K).counts(pred, label.astype(kind)), expected)
    tensor = torch.from_numpy(pred.astype(kind))
    np.testing.assert_array_equal(Confusion(K).counts(tensor, torch.from_numpy(label)), expected)
    np.testing.assert_array_equal(Confusion(K).counts(tensor, label), expected)


def test_strided_views_count_the_same() -> None:
    pred, label = maps(2, (9, 14))
    view = Confusion(K).counts(pred.T[::2], label.T[::2])
    np.testing.assert_array_equal(view, counted_by_loop(pred.T[::2], label.T[::2]))


def test_the_count_on_a_device_is_the_same() -> None:
    pred, label = maps(3)
    joint = module._joint_on_device(torch.from_numpy(pred), torch.from_numpy(label).long(), K)
    np.testing.assert_array_equal(joint, module.joint_counts(pred, label))
    with pytest.raises(ValueError, match=r"pred: pixel \(row 0, column 0\) holds -7"):
        module._joint_on_device(torch.from_numpy(pred).long() * 0 - 7, torch.from_numpy(label), K)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_tensors_count_the_same() -> None:
    pred, label = maps(3)
    found = Confusion(K).counts(torch.from_numpy(pred).cuda(), torch.from_numpy(label).cuda())
    np.testing.assert_array_equal(found, counted_by_loop(pred, label))


def test_ids_beyond_the_ones_asked_for_are_left_out() -> None:
    pred, label = maps(8)
    whole = module.joint_counts(pred, label)
    np.testing.assert_array_equal(module.joint_counts(pred, label, num_ids=2), whole[:2, :2])
    assert whole.sum() == pred.size


def test_a_tile_never_holds_more_pixels_than_float32_counts_exactly() -> None:
    assert module.TILE_PIXELS <= 2**24


@pytest.mark.parametrize("side", [4100, 4101])
def test_a_constant_map_beyond_float32s_integers_is_counted_exactly(side: int) -> None:
    constant = np.ones((side, side), np.uint8)
    assert Confusion(2).counts(constant, constant).tolist() == [[0, 0, 0], [0, side * side, 0]]


@pytest.mark.parametrize("tile_pixels", [10, 2**4, 76, 78])
def test_tiles_add_up(tile_pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pred, label = maps(4)
    monkeypatch.setattr(module, "TILE_PIXELS", tile_pixels)
    np.testing.assert_array_equal(Confusion(K).counts(pred, label), counted_by_loop(pred, label))


@pytest.mark.parametrize(("name", "value"), [("pred", 3), ("label", 3), ("pred", 254), ("label", 200)])
def test_an_8_bit_value_out_of_range_is_named_and_nothing_is_counted(name: str, value: int) -> None:
    both = dict(zip(("pred", "label"), maps(5), strict=True))
    both["label"][5, 9] = 0
    both[name][5, 9] = value
    confusion = Confusion(K)
    with pytest.raises(ValueError, match=rf"{name}: pixel \(row 5, column 9\) holds {value}; expected 0..2 or 255"):
        confusion.update(both["pred"], both["label"])
    assert confusion.matrix.sum() == 0


@pytest.mark.parametrize("value", [-1, 256, 70000])
def test_a_wide_value_out_of_range_is_named(value: int) -> None:
    pred, label = maps(6, (2, 7, 11))
    wide = label.astype(np.int64)
    wide[1, 2, 3] = value
    with pytest.raises(ValueError, match=rf"label: map 1, pixel \(row 2, column 3\) holds {value};"):
        Confusion(K).update(pred, torch.from_numpy(wide))


def test_a_prediction_out_of_range_is_refused_even_where_the_truth_is_void() -> None:
    with pytest.raises(ValueError, match="holds 9"):
        Confusion(K).update(np.array([[9]], np.uint8), np.array([[IGNORE]], np.uint8))


def test_wrong_arguments_are_refused() -> None:
    pred, label = maps(7)
    with pytest.raises(ValueError, match="expected one shape"):
        Confusion(K).update(pred[:5], label)
    with pytest.raises(ValueError, match="float32"):
        Confusion(K).update(torch.rand(7, 11), label)
    with pytest.raises(ValueError, match="bool"):
        Confusion(K).update(pred == 1, label)
    with pytest.raises(ValueError, match=r"expected 1\.\.255"):
        Confusion(256)
    with pytest.raises(ValueError, match="expected the same"):
        Confusion(K).merge(Confusion(4))
    with pytest.raises(ValueError, match="non-negative"):
        Confusion(K, np.full((K, K + 1), -1))


def test_merged_shards_equal_one_count() -> None:
    pred, label = maps(8, (5, 7, 11))
    whole, merged = Confusion(K), Confusion(K)
    whole.update(pred, label)
    for rank in range(3):
        shard = Confusion(K)
        shard.update(pred[rank::3], label[rank::3])
        merged.merge(Confusion(K, shard.matrix))
    np.testing.assert_array_equal(merged.matrix, whole.matrix)


def test_iou_recall_precision_and_f1_match_loops_over_pixels() -> None:
    pred, label = maps(9)
    confusion = Confusion(K)
    confusion.update(pred, label)
    seen = label != IGNORE
    for c in range(K):
        truth, found = (label == c) & seen, (pred == c) & seen
        both, either = float((truth & found).sum()), float((truth | found).sum())
        assert confusion.iou()[c] == both / either
        assert confusion.precision()[c] == both / found.sum()
        assert confusion.f1()[c] == 2 * both / float(truth.sum() + found.sum())
        if truth.any():
            assert confusion.recall()[c] == both / truth.sum()
    assert confusion.pixel_acc() == (pred[seen] == label[seen]).mean()
    assert confusion.mean_acc() == confusion.recall()[:2].mean()
    weights = np.bincount(label[seen], minlength=K) / seen.sum()
    assert confusion.frequency_weighted_iou() == pytest.approx((weights * confusion.iou()).sum(), abs=1e-15)


def test_a_class_predicted_but_absent_from_the_truth_scores_0() -> None:
    confusion = Confusion(K)
    confusion.update(np.array([[0, 1]], np.uint8), np.array([[0, 0]], np.uint8))
    np.testing.assert_array_equal(confusion.iou(), [0.5, 0.0, np.nan])
    assert confusion.miou() == 0.25
    assert confusion.classes_averaged() == 2
    assert confusion.mean_acc() == 0.5


def test_miou_skips_a_class_absent_from_truth_and_prediction() -> None:
    confusion = Confusion(150)
    confusion.update(np.arange(15, dtype=np.uint8), np.arange(15, dtype=np.uint8))
    assert confusion.miou() == 1.0
    assert confusion.miou_over_all() == 0.1
    assert confusion.classes_averaged() == 15


def test_a_pixel_predicted_void_is_a_miss() -> None:
    confusion = Confusion(K)
    confusion.update(np.array([0, IGNORE], np.uint8), np.array([0, 0], np.uint8))
    assert confusion.iou()[0] == 0.5
    assert confusion.pixel_acc() == 0.5


def test_with_nothing_counted_every_score_is_undefined() -> None:
    confusion = Confusion(K)
    confusion.update(np.zeros((2, 2), np.uint8), np.full((2, 2), IGNORE, np.uint8))
    scores = [confusion.miou(), confusion.pixel_acc(), confusion.mean_acc(), confusion.frequency_weighted_iou()]
    assert np.isnan(scores).all()
    assert np.isnan(confusion.iou()).all()
