"""The probe's images: the target's class is in the cue alone, and offsets are as frequent as they should be."""

import numpy as np
import pytest

from segnl.core import IGNORE
from segnl.probe.scene import COLOURS, GREY, NOISE, NUM_CLASSES, TASKS, Layout, Scene, Task, render_scene

PX = 5


def scene(task: Task, index: int, *, on_cross: float | None = 0.5, grid_hw: tuple[int, int] = (7, 11)) -> Scene:
    return render_scene(Layout(task, grid_hw, PX, 6, on_cross), seed=0, split="val", index=index)


def patch(pixels: np.ndarray, cell: np.ndarray) -> np.ndarray:
    row, column = cell * PX
    return pixels[row : row + PX, column : column + PX]


def distances(rgb: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.array(list(COLOURS.values())) - rgb, axis=1)


@pytest.mark.parametrize("task", TASKS)
def test_a_scene_is_a_pure_function_of_its_number(task: Task) -> None:
    first, again, other = scene(task, 3), scene(task, 3), scene(task, 4)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label, again.label)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("task", TASKS)
def test_only_the_targets_are_labelled_and_they_do_not_overlap(task: Task) -> None:
    for index in range(20):
        own = scene(task, index)
        assert len({tuple(cell) for cell in own.targets}) == 6
        expected = np.full(own.label.shape, IGNORE)
        for cell in own.targets:
            assert len(np.unique(patch(own.label, cell))) == 1
            patch(expected, cell)[:] = patch(own.label, cell)
        assert np.array_equal(own.label, expected)


@pytest.mark.parametrize("task", ["reach", "association"])
def test_the_offset_of_a_target_leads_to_a_cue_of_its_class(task: Task) -> None:
    for index in range(40):
        own = scene(task, index)
        assert own.offsets is not None
        for cell, offset in zip(own.targets, own.offsets, strict=True):
            colour = patch(own.image, cell + offset)[:, : PX // 2].mean(axis=(0, 1))
            class_ = patch(own.label, cell)[0, 0]
            # The nearest colour; a cue that is half of another colour is as near to both.
            assert distances(colour)[class_] < distances(colour).min() + 15


def test_in_the_association_task_the_mark_of_a_target_is_that_of_its_cue_alone() -> None:
    for index in range(40):
        own = scene("association", index)
        assert own.offsets is not None
        marks = {}
        for cell, offset in zip(own.targets, own.offsets, strict=True):
            mark = patch(own.image, cell)[:, PX // 2 :].mean(axis=(0, 1))
            of_cue = patch(own.image, cell + offset)[:, PX // 2 :].mean(axis=(0, 1))
            assert np.abs(mark - of_cue).max() < 2 * NOISE
            marks[tuple(cell + offset)] = mark
        for a, b in ((a, b) for a in marks for b in marks if a < b):
            assert np.abs(marks[a] - marks[b]).max() > 60


def test_in_the_counting_task_the_class_is_the_most_frequent_colour() -> None:
    num_clear = 0
    for index in range(60):
        own = scene("counting", index)
        targets = {tuple(cell) for cell in own.targets}
        counts = np.zeros(NUM_CLASSES)
        is_clear = True
        for cell in np.ndindex(7, 11):
            pixels = patch(own.image, np.array(cell)).astype(int)
            if cell not in targets and (pixels.max(axis=-1) - pixels.min(axis=-1)).mean() > 40:
                nearest = np.sort(distances(pixels.mean(axis=(0, 1))))
                is_clear &= bool(nearest[1] > nearest[0] + 15)
                counts[distances(pixels.mean(axis=(0, 1))).argmin()] += 1
        assert counts.sum() == 9
        assert own.offsets is None
        if is_clear:
            num_clear += 1
            assert np.unique(own.label[own.label != IGNORE]).tolist() == [counts.argmax()]
    assert num_clear > 20


def test_a_target_looks_alike_whatever_its_class() -> None:
    for index in range(30):
        own = scene("reach", index)
        for cell in own.targets:
            assert np.abs(patch(own.image, cell).astype(int) - GREY).max() <= NOISE


def test_validation_has_all_offsets_equally_often() -> None:
    counts = np.zeros((9, 13), int)
    for index in range(1500):
        offsets = scene("reach", index, on_cross=None, grid_hw=(5, 7)).offsets
        assert offsets is not None
        np.add.at(counts, (offsets[:, 0] + 4, offsets[:, 1] + 6), 1)
    assert counts[4, 6] == 0
    mean = 1500 * 6 / (9 * 13 - 1)
    # Drawn without replacement, six of at most 34 places, so the nearest ones are a little rarer.
    assert 0.55 * mean < np.delete(counts.ravel(), 4 * 13 + 6).min()
    assert counts.max() < 1.6 * mean


def test_half_of_the_training_targets_share_a_row_or_column_with_their_cue() -> None:
    offsets = np.concatenate([scene("reach", index, grid_hw=(12, 12)).offsets for index in range(500)])
    assert (offsets == 0).any(axis=1).mean() == pytest.approx(0.5, abs=0.05)


def test_classes_are_equally_frequent() -> None:
    classes = [int(own.label.min()) for own in (scene("reach", index) for index in range(600))]
    assert np.bincount(classes) == pytest.approx([200, 200, 200], abs=50)  # four standard deviations
