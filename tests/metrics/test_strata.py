"""Strata against loops over pixels."""

import json

import numpy as np
import pytest

from segnl.core import IGNORE
from segnl.metrics import strata as module
from segnl.metrics.confusion import Confusion
from segnl.metrics.strata import (
    COMPONENT_PX,
    WIDTHS_PX,
    Strata,
    boundary_width,
    component_sizes,
    is_near_boundary,
    pair_counts,
    ring_of,
)

K = 3
HW = (23, 37)


def maps(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of classes 0 and 1 with some void; predictions with mistakes, void among them."""
    rng = np.random.default_rng(seed)
    label = np.kron(rng.choice([0, 1, 1, IGNORE], (6, 8)), np.ones((4, 5), int))[: HW[0], : HW[1]].astype(np.uint8)
    wrong = rng.random(HW) < 0.2
    pred = np.where(wrong, rng.choice([0, 1, 2, IGNORE], HW), np.where(label == IGNORE, 1, label)).astype(np.uint8)
    return pred, label


def near_by_loop(ids: np.ndarray, width: int, border_counts: bool) -> np.ndarray:
    out = np.zeros(ids.shape, bool)
    for r, c in np.ndindex(ids.shape):
        for y in range(r - width, r + width + 1):
            for x in range(c - width, c + width + 1):
                is_inside = 0 <= y < ids.shape[0] and 0 <= x < ids.shape[1]
                out[r, c] |= (ids[y, x] != ids[r, c]) if is_inside else border_counts
    return out


@pytest.mark.parametrize("border_counts", [False, True])
@pytest.mark.parametrize("width", [1, 3])
def test_boundaries_are_the_pixels_with_another_id_nearby(width: int, border_counts: bool) -> None:
    for ids in maps():
        found = is_near_boundary(ids, width, border_counts=border_counts)
        np.testing.assert_array_equal(found, near_by_loop(ids, width, border_counts))


@pytest.mark.parametrize(("hw", "width"), [((1024, 2048), 11), ((256, 512), 3), ((7, 11), 1)])
def test_the_width_of_a_single_boundary_iou_is_half_a_percent_of_the_diagonal(hw: tuple[int, int], width: int) -> None:
    assert boundary_width(hw) == width


def test_boundary_and_trimap_iou_match_masks_written_out_class_by_class() -> None:
    pred, label = maps()
    strata = Strata(K)
    strata.update(pred, label)
    result = strata.to_dict()
    shown = np.where(label == IGNORE, IGNORE, pred).astype(np.uint8)
    for width in WIDTHS_PX[:2]:
        ious = []
        for c in range(K):
            truth = (label == c) & near_by_loop((label == c).astype(np.uint8), width, True)
            found = (shown == c) & near_by_loop((shown == c).astype(np.uint8), width, True)
            ious.append((truth & found).sum() / max((truth | found).sum(), 1))
        assert result["boundary_iou"][str(width)] == pytest.approx(np.mean(ious), abs=1e-15)
        confusion = Confusion(K)
        confusion.update(pred, np.where(near_by_loop(label, width, False), label, IGNORE).astype(np.uint8))
        assert result["trimap_iou"][str(width)] == confusion.miou()


def test_a_perfect_prediction_has_no_errors_anywhere() -> None:
    _, label = maps()
    strata = Strata(K)
    strata.update(np.where(label == IGNORE, 2, label).astype(np.uint8), label)
    result = strata.to_dict()
    values = [*result["boundary_iou"].values(), *result["trimap_iou"].values(), *result["iou_by_row"]]
    values += [*result["iou_by_distance"], *(size["recall"] for size in result["recall_by_component"])]
    assert {value for value in values if value is not None} == {1.0}


def test_recall_goes_to_the_size_of_the_truths_component() -> None:
    label = np.full((40, 40), IGNORE, np.uint8)
    label[0:2, 0:5] = 0  # 10 pixels
    label[2:4, 5:7] = 0  # touches it at a corner: one component of 14
    label[10:20, 0:10] = 0  # 100
    label[10:20, 10:30] = 1  # 200, another class beside it
    pred = label.copy()
    pred[0, 0] = 1
    pred[10:20, 10:20] = 0
    strata = Strata(2)
    strata.update(pred, label)
    small, middle, *others = strata.to_dict()["recall_by_component"]
    assert small == {"min_px": 0, "recall": 13 / 14, "pixels": 14, "components": 1}
    assert middle == {"min_px": 64, "recall": (100 + 100) / (100 + 200), "pixels": 100 + 200, "components": 2}
    assert COMPONENT_PX[2] == others[0]["min_px"] == 256
    assert all(size["recall"] is None and size["components"] == 0 for size in others)


def test_rows_and_rings_part_the_image() -> None:
    pred, label = maps()
    strata, whole = Strata(K), Confusion(K)
    strata.update(pred, label)
    whole.update(np.where(label == IGNORE, IGNORE, pred).astype(np.uint8), label)
    np.testing.assert_array_equal(strata.counts["row"].sum(axis=0), whole.matrix)
    np.testing.assert_array_equal(strata.counts["ring"].sum(axis=0), whole.matrix)
    ring = ring_of((7, 11))
    assert ring[3, 5] == 0
    assert {ring[0, 0], ring[0, 10], ring[6, 0], ring[6, 10]} == {module.NUM_RINGS - 1}
    assert ring_of((1, 1)).tolist() == [[0]]


def test_shards_merge_to_the_same_counts_and_plain_numbers() -> None:
    whole, merged = Strata(K), Strata(K)
    for seed in range(3):
        whole.update(*maps(seed))
        shard = Strata(K)
        shard.update(*maps(seed))
        merged.merge(shard)
    assert merged.to_dict() == whole.to_dict()
    json.dumps(whole.to_dict(), allow_nan=False)
    json.dumps(Strata(K).to_dict(), allow_nan=False)


def test_an_image_smaller_than_the_widths_is_all_boundary() -> None:
    strata = Strata(K)
    strata.update(np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.uint8))
    assert strata.to_dict()["boundary_iou"]["20"] == 1.0
    assert strata.to_dict()["trimap_iou"]["20"] is None


def test_wrong_arguments_are_refused() -> None:
    pred, label = maps()
    with pytest.raises(ValueError, match="expected one shape"):
        Strata(K).update(pred[:5], label)
    with pytest.raises(ValueError, match="holds 9"):
        Strata(K).update(np.full_like(pred, 9), label)


def test_every_pixel_has_the_size_of_its_own_component() -> None:
    label = np.full((40, 40), IGNORE, np.uint8)
    label[0:2, 0:5] = 0  # 10 pixels
    label[10:20, 0:10] = 0  # 100, of the same class
    label[10:20, 10:40] = 1  # 300, another class beside it
    expected = np.full((40, 40), IGNORE, np.uint8)
    for rows, columns, pixels in ((slice(0, 2), slice(0, 5), 10), (slice(10, 20), slice(0, 10), 100)):
        expected[rows, columns] = max(i for i, least in enumerate(COMPONENT_PX) if least <= pixels)
    expected[10:20, 10:40] = max(i for i, least in enumerate(COMPONENT_PX) if least <= 300)
    np.testing.assert_array_equal(component_sizes(label)[0], expected)


def test_pair_counts_add_up_to_accuracy_on_each_pair():
    ambiguous = np.array([[0, 1, 1, 2], [2, 2, 0, 1]], np.uint8)
    label = np.array([[3, 15, 15, 8], [9, 9, 0, 14]], np.uint8)
    pred = np.array([[4, 15, 14, 8], [9, 8, 0, 11]], np.uint8)
    assert pair_counts(pred, label, ambiguous, 4).tolist() == [[1, 3], [2, 3], [0, 0], [0, 0]]
    with pytest.raises(ValueError, match="differ in shape"):
        pair_counts(pred, label, ambiguous[:1], 4)
