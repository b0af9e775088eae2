"""Mask files: their ids, their colours, and their folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import ConfigError, MachineError
from segnl.evaluation.masks import IGNORED_RGB, SHADOW, borders, error_map, overlay, write_masks
from segnl.labels.table import ClassTable

TABLE = ClassTable(["road", "car", "sky"], [(255, 0, 0), (0, 255, 0), (0, 0, 200)], file_ids=[7, 26, 23], void_id=0)
HW = (7, 11)


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns image, prediction and label; (0, 0) is predicted as ignored, and the label of (0, 1) is ignored."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)
    label = np.repeat(np.array([0, 0, 0, 1, 1, 2, 2], np.uint8)[:, None], HW[1], axis=1)
    prediction = label.copy()
    prediction[2, 4] = 1
    prediction[0, 0] = 255
    label[0, 1] = 255
    return image, prediction, label


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_ids_files_hold_the_benchmarks_ids_unchanged(tmp_path: Path) -> None:
    image, prediction, label = scene()
    paths = write_masks(tmp_path, "frame", prediction, TABLE, image=image, label=label)
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        f"{kind}/frame.png" for kind in ("ids", "colour", "overlay", "error")
    ]
    ids = read(paths[0])
    assert (ids.dtype, ids.shape) == (np.uint8, HW)
    np.testing.assert_array_equal(ids, TABLE.to_mask(prediction))
    assert sorted(set(ids.ravel().tolist())) == [0, 7, 23, 26]
    np.testing.assert_array_equal(read(paths[1]), TABLE.colour(prediction))  # RGB, not BGR
    assert not list(tmp_path.glob("**/.*"))


def test_without_a_label_there_is_no_error_map(tmp_path: Path) -> None:
    image, prediction, _ = scene()
    write_masks(tmp_path, "frame", prediction, TABLE, image=image)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colour", "ids", "overlay"]


def test_the_error_map_colours_exactly_the_wrong_pixels() -> None:
    image, prediction, label = scene()
    shown = error_map(image, prediction, label).astype(int)
    is_coloured = shown.max(axis=2) != shown.min(axis=2)
    assert {tuple(place) for place in np.argwhere(is_coloured).tolist()} == {(0, 0), (2, 4)}
    assert tuple(shown[0, 1]) == IGNORED_RGB
    correct = shown[~is_coloured & (label != 255)]
    assert correct.min() >= SHADOW
    assert correct.max() < IGNORED_RGB[0]


def test_a_perfect_prediction_has_no_colour_in_its_error_map() -> None:
    image, _, label = scene()
    shown = error_map(image, label, label)
    assert (shown.max(axis=2) == shown.min(axis=2)).all()


def test_an_overlay_is_half_image_half_colour_with_light_borders() -> None:
    image, prediction, _ = scene()
    shown = overlay(image, prediction, TABLE)
    edge = borders(prediction)
    assert (shown[edge] == 255).all()
    inside = ~edge & (prediction != 255)
    expected = (image.astype(float) + TABLE.colour(prediction)) / 2
    assert np.abs(shown.astype(float) - expected)[inside].max() <= 0.5  # one rounding
    assert edge[0].tolist() == [True, *[False] * 10]
    assert edge[2].all()


@pytest.mark.parametrize("sample_id", ["../frame", "/tmp/frame", "a/../../../frame"])
def test_a_sample_id_cannot_leave_the_folder_and_nothing_is_written(sample_id: str, tmp_path: Path) -> None:
    image, prediction, label = scene()
    with pytest.raises(ConfigError, match="leads out"):
        write_masks(tmp_path / "masks", sample_id, prediction, TABLE, image=image, label=label)
    assert not list(tmp_path.rglob("*.png"))


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    image, prediction, _ = scene()
    (tmp_path / "ids").write_text("a file where the folder should be")
    with pytest.raises(MachineError, match="cannot be written"):
        write_masks(tmp_path, "frame", prediction, TABLE, image=image)


def test_sizes_that_differ_are_refused() -> None:
    image, prediction, label = scene()
    with pytest.raises(ValueError, match=r"label \(7, 10\)"):
        write_masks(Path("unused"), "frame", prediction, TABLE, image=image, label=label[:, :10])
    with pytest.raises(ValueError, match=r"image \(6, 11, 3\)"):
        write_masks(Path("unused"), "frame", prediction, TABLE, image=image[:6])
