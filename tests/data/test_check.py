import json

import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import DataError
from segnl.data.check import check
from segnl.data.datasets.folder import Folder
from segnl.data.label_counts import class_pixels


def test_eight_bad_files_are_all_named_at_once(make_folder):
    data = make_folder(10, hw=(30, 41))
    image, label = data.image_path, data.label_path
    image(0).write_bytes(image(0).read_bytes()[:400])
    label(1).write_bytes(b"")
    label(2).unlink()
    image(3).unlink()
    Image.fromarray(np.zeros((41, 30), np.uint8)).save(label(4))
    Image.fromarray(np.full((30, 41), 3, np.uint8)).save(label(5))
    Image.fromarray(np.zeros((30, 41, 3), np.uint8)).save(label(6))
    Image.fromarray(np.full((30, 41), 26001, np.uint16)).save(label(7))
    seen = []
    report = check(Folder(data.cfg, "train", allow_unmatched=True), on_pair=lambda: seen.append(1))
    expected = {
        (image(0), "damaged"),
        (label(1), "empty"),
        (image(2), "missing"),
        (label(3), "missing"),
        (label(4), "size"),
        (label(5), "id"),
        (label(6), "format"),
        (label(7), "format"),
    }
    assert {(error.file, error.kind) for error in report.errors} == expected
    assert len(report.errors) == 8
    assert (report.num_pairs, len(seen)) == (8, 8)
    mapping = json.loads(json.dumps(report.to_dict()))
    assert {fault["kind"] for fault in mapping["faults"]} == {"damaged", "empty", "missing", "size", "id", "format"}
    (bad_id,) = [fault for fault in mapping["faults"] if fault["kind"] == "id"]
    assert bad_id["detail"].startswith("pixel (row 0, column 0) holds 3, but")
    assert all("\n" not in fault["detail"] for fault in mapping["faults"])


def test_a_valid_data_set_of_one_image_is_counted(make_folder):
    data = make_folder(1)
    label = data.read(0).label
    report = check(data)
    assert report.to_dict() == {
        "faults": [],
        "notes": [],
        "num_pairs": 1,
        "pixels_per_class": {name: int((label == i).sum()) for i, name in enumerate("abc")},
        "void_fraction": pytest.approx((label == 255).mean()),
    }


def test_a_pair_with_two_errors_gives_both_and_no_fraction(make_folder):
    data = make_folder(1)
    data.image_path(0).write_bytes(b"")
    data.label_path(0).write_bytes(b"")
    report = check(data)
    assert [error.kind for error in report.errors] == ["empty", "empty"]
    assert report.ignored_fraction is None


def test_an_orientation_tag_is_a_note_and_no_error(make_folder):
    data = make_folder(1)
    tag = Image.Exif()
    tag[0x0112] = 3
    Image.open(data.image_path(0)).save(data.image_path(0), exif=tag)
    report = check(data)
    assert report.errors == []
    assert [(note.kind, note.file) for note in report.notes] == [("orientation", data.image_path(0))]


def test_no_images_at_all_is_refused(make_folder):
    data = make_folder(1)
    data.image_path(0).unlink()
    with pytest.raises(DataError, match="no image files"):
        Folder(data.cfg, "train", allow_unmatched=True)


def test_camvid_has_no_errors(shared):
    cfg = {"name": "folder", "crop_hw": (7, 11), "workers": 2}
    camvid = Folder.Config(**cfg, root=shared / "data/camvid", ignore_ids=(11,))
    report = check(Folder(camvid, "val"))
    assert report.errors == []
    assert report.num_pairs == 101
    assert min(report.pixels_per_class.values()) > 0
    assert 0.01 < report.ignored_fraction < 0.1


class ColourFolder(Folder):
    """Labels are pictures in the colours of the class table."""

    def read_ids(self, i):
        rgb = np.asarray(Image.open(self.label_path(i)).convert("RGB"))
        return (rgb[:, :, None] == self.table.palette).all(axis=3).argmax(axis=2)


def test_labels_that_a_data_set_decodes_itself_are_read_checked_and_counted(make_folder, tmp_path):
    data = make_folder(2)
    palette = data.table.palette
    for i in range(len(data)):
        label = np.full((13, 17), i, np.uint8)
        Image.fromarray(palette[label]).save(data.label_path(i))
    colours = ColourFolder(data.cfg, "train")
    assert colours.read(1).label.tolist() == np.full((13, 17), 1).tolist()
    assert class_pixels(colours).tolist() == [13 * 17, 13 * 17, 0]
    assert check(colours).errors == []
    assert len(check(data).errors) == 2  # the same files are refused as ids


def test_a_palette_with_the_colours_of_the_table_at_other_ids_is_an_error(make_folder):
    data = make_folder(3)
    for i, palette in enumerate([[1, 2, 3, 4, 5, 6], [4, 5, 6, 1, 2, 3], [4, 5, 6, 0, 0, 0]]):
        label = Image.fromarray(np.indices((13, 17)).sum(0).astype(np.uint8) % 2).convert("P")
        label.putpalette(palette)
        label.save(data.label_path(i))
    (error,) = check(Folder(data.cfg, "train")).errors
    assert error.file == data.label_path(1)
    assert "gives id 0 the colour (4, 5, 6) of 'b', which is 1 in the class table" in error.detail
