"""Labels that do not fit their class table are noticed before a network is trained on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import DataError
from segnl.data.check import check
from segnl.data.datasets.folder import Folder, FolderConfig
from segnl.data.label_counts import MAX_LABELS_AT_START, LabelCounts, class_pixels, require_labelled
from segnl.labels.table import ClassTable

HALF = np.array([[0, 0, 0, 255, 255]] * 3, np.uint8)


def open_labels(root: Path, labels: list[np.ndarray], rows: str, **settings: Any) -> Folder:
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True, exist_ok=True)
    for i, label in enumerate(labels):
        Image.new("RGB", label.shape[::-1]).save(root / f"images/train/{i:03d}.png")
        Image.fromarray(label).save(root / f"labels/train/{i:03d}.png")
    (root / "classes.tsv").write_text(f"index\tname\tr\tg\tb\n{rows}")
    return Folder(FolderConfig(name="folder", root=root, crop_hw=(3, 5), workers=0, **settings), "train")


def test_counts_agree_with_a_loop_over_pixels():
    table = ClassTable(["a", "b"], [[1, 2, 3], [4, 5, 6]], file_ids=[7, 200], ignore_ids=[3, 255])
    raw = np.random.default_rng(0).choice(np.array([7, 200, 3, 255], np.uint8), size=(7, 11))
    counts = LabelCounts.of(table, raw, "") + LabelCounts.of(table, raw[:3], "")
    both = [*raw.ravel().tolist(), *raw[:3].ravel().tolist()]
    assert counts.by_class.tolist() == [both.count(7), both.count(200)]
    assert {i: int(n) for i, n in enumerate(counts.by_ignored_id) if n} == {3: both.count(3), 255: both.count(255)}
    assert counts.num_labels == 2


def test_255_is_a_class_where_the_table_names_it(tmp_path):
    data = open_labels(tmp_path, [HALF], "0\tbackground\t0\t0\t0\n255\troad\t1\t1\t1\n")
    assert class_pixels(data).tolist() == [9, 6]
    assert data.table.to_mask(data.read(0).label).tolist() == HALF.tolist()
    assert data.table.void_id == 254
    require_labelled(data)
    assert check(data).notes == []


def test_a_binary_mask_of_0_and_255_under_a_table_of_0_and_1_is_refused_with_the_remedy(tmp_path):
    data = open_labels(tmp_path, [HALF, HALF], "0\tbackground\t0\t0\t0\n1\troad\t1\t1\t1\n")
    message = (
        "all pixels of the 2 labels that are not ignored are 'background', and 40.0% hold 255, which is ignored; if "
        "that is 'road', give 255 as index in classes.tsv, or set data.label_map"
    )
    with pytest.raises(DataError, match=message):
        require_labelled(data)
    assert [note.detail for note in check(data).notes] == [message]


def test_labels_without_any_class_are_an_error_of_check_and_of_training(tmp_path):
    data = open_labels(tmp_path, [np.full((3, 5), 255, np.uint8)], "0\ta\t0\t0\t0\n1\tb\t1\t1\t1\n")
    with pytest.raises(DataError, match=r"no pixel of the label is of a class, and 100\.0% hold 255"):
        require_labelled(data)
    assert [error.kind for error in check(data).errors] == ["classes"]


def test_classes_without_a_pixel_are_named_at_the_start(tmp_path, caplog):
    data = open_labels(tmp_path, [np.eye(5, dtype=np.uint8)], "0\ta\t0\t0\t0\n1\tb\t1\t1\t1\n2\tc\t2\t2\t2\n")
    require_labelled(data)
    assert "1 of 3 classes have no pixel in the label: 'c'" in caplog.text


def test_all_labels_are_read_only_where_a_part_of_them_is_doubtful(tmp_path, monkeypatch):
    zeros, count = np.zeros((3, 5), np.uint8), MAX_LABELS_AT_START + 7
    labels = [zeros] * count
    left_out = (set(range(count)) - set(np.linspace(0, count - 1, MAX_LABELS_AT_START).round().tolist())).pop()
    labels[left_out] = np.eye(3, 5, dtype=np.uint8)  # the only label with the second class is not in the part
    data = open_labels(tmp_path, labels, "0\ta\t0\t0\t0\n1\tb\t1\t1\t1\n")
    read: list[int] = []
    plain = Folder.read_ids
    monkeypatch.setattr(Folder, "read_ids", lambda self, i: read.append(i) or plain(self, i))
    require_labelled(data)
    assert len(read) == MAX_LABELS_AT_START + count
    Image.fromarray(labels[left_out]).save(data.label_path(0))
    read.clear()
    require_labelled(data)
    assert len(read) == MAX_LABELS_AT_START


def test_values_that_look_like_grey_levels_are_said_to(tmp_path):
    label = np.array([[0, 127, 255, 0, 127]] * 3, np.uint8)
    data = open_labels(tmp_path, [label], "0\ta\t0\t0\t0\n1\tb\t1\t1\t1\n2\tc\t2\t2\t2\n")
    message = (
        r"holds 127, but .* has ids 0\.\.2 \(and 255, ignored\); the label's values 0, 127, 255 look like grey levels"
    )
    with pytest.raises(DataError, match=message):
        data.read(0)


def test_a_table_of_one_class_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match=r"names 1 class, 'road'; .*name the background"):
        open_labels(tmp_path, [HALF], "255\troad\t1\t1\t1\n")
