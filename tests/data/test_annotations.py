"""Labels drawn from COCO instances, YOLO polygons and LabelMe shapes."""

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import DataError
from segnl.core.find_files import find_files
from segnl.data.annotations import coco, labelme, yolo
from segnl.data.annotations.base import Annotations
from segnl.data.folder_layout import plan_folder

HW = (37, 53)
POLYGON = [4.0, 3.0, 30.0, 5.5, 25.0, 30.0, 6.0, 28.0]
TRIANGLE = [10.0, 8.0, 20.0, 9.0, 14.0, 20.0]


def write_image(path: Path, hw: tuple[int, int] = HW) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (hw[1], hw[0]), (9, 9, 9)).save(path)


def write_coco(root: Path, objects: list[dict[str, Any]], name: str = "instances_train2017.json", **over: Any) -> Path:
    write_image(root / "train2017" / "a.jpg")
    content: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": HW[0], "width": HW[1]}],
        "annotations": [{"id": i, "image_id": 7} | own for i, own in enumerate(objects)],
        "categories": [{"id": 3, "name": "car"}, {"id": 90, "name": "cat"}],
    } | over
    path = root / "annotations" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def find(module: Any, root: Path) -> Annotations:
    annotations = module.find(root, list(find_files(root)))
    assert annotations is not None
    return annotations


def drawn(module: Any, root: Path) -> np.ndarray:
    (image,) = find(module, root).images
    return image.draw()


def test_coco_polygons_are_the_pixels_of_pycocotools(tmp_path):
    mask = pytest.importorskip("pycocotools.mask")
    objects = [{"category_id": 90, "segmentation": [TRIANGLE]}, {"category_id": 3, "segmentation": [POLYGON]}]
    write_coco(tmp_path, objects)
    assert find(coco, tmp_path).class_names == ["background", "car", "cat"]
    large, small = (mask.decode(mask.frPyObjects([own], *HW))[..., 0] > 0 for own in (POLYGON, TRIANGLE))
    expected = np.zeros(HW, int)
    expected[large] = 1
    expected[small] = 2  # the smaller one is in front, although it comes first in the file
    assert (large & small).any()
    np.testing.assert_array_equal(drawn(coco, tmp_path), expected)


def test_coco_parts_of_an_object_are_its_union(tmp_path):
    mask = pytest.importorskip("pycocotools.mask")
    other = [40.0, 30.0, 50.0, 30.0, 50.0, 35.0]
    write_coco(tmp_path, [{"category_id": 3, "segmentation": [POLYGON, other]}])
    expected = mask.decode(mask.merge(mask.frPyObjects([POLYGON, other], *HW)))
    np.testing.assert_array_equal(drawn(coco, tmp_path), expected)


@pytest.mark.parametrize("is_compressed", [True, False])
def test_coco_run_lengths_are_decoded_and_crowds_are_ignored_behind_objects(is_compressed, tmp_path):
    mask = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(0)
    large, small = random.random(HW) < 0.6, np.zeros(HW, bool)
    small[5:9, 11:30] = True

    def lengths(pixels: np.ndarray) -> dict[str, Any]:
        if is_compressed:
            encoded = mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
            return {"size": list(HW), "counts": encoded["counts"].decode()}
        flat = pixels.flatten(order="F")
        ends = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1]))
        return {"size": list(HW), "counts": np.diff(ends, prepend=0).tolist()}

    crowd = {"category_id": 3, "iscrowd": 1, "segmentation": lengths(large)}
    write_coco(tmp_path, [{"category_id": 90, "segmentation": lengths(small)}, crowd])
    expected = np.where(small, 1, np.where(large, 255, 0))  # car has a crowd only, and is a class all the same
    expected[small] = 2
    np.testing.assert_array_equal(drawn(coco, tmp_path), expected)


def test_coco_run_lengths_need_no_pycocotools(tmp_path, monkeypatch):
    monkeypatch.setattr(coco, "_pycocotools_mask", lambda: pytest.fail("imported"))
    write_coco(tmp_path, [{"category_id": 3, "segmentation": {"size": HW, "counts": [37, 37, 51 * 37]}}])
    expected = np.zeros(HW, int)
    expected[:, 1] = 1
    np.testing.assert_array_equal(drawn(coco, tmp_path), expected)


def test_coco_images_that_are_not_there_are_left_out_and_counted(tmp_path):
    images = [{"id": i, "file_name": f"{name}.jpg", "height": HW[0], "width": HW[1]} for i, name in enumerate("abc")]
    lengths = {"size": HW, "counts": [HW[0] * HW[1]]}
    objects = [{"image_id": 2, "category_id": 3, "segmentation": lengths}]
    write_coco(tmp_path, objects, images=images)
    annotations = find(coco, tmp_path)
    assert [image.path.name for image in annotations.images] == ["a.jpg"]
    assert "left out: 2 of 3 images of instances_train2017.json are not in the folder" in annotations.notes


BOX = {"category_id": 3, "segmentation": []}
BAD_COCO = {
    "a box": ([BOX], {}, "annotations.0.segmentation: is empty"),
    "four numbers": ([{"category_id": 3, "segmentation": [[1, 2, 3, 4]]}], {}, "segmentation.0: 4 numbers"),
    "far outside": ([{"category_id": 3, "segmentation": [[0, 0, 1e9, 0, 0, 9]]}], {}, "lies far outside of its image"),
    "outline": (
        [{"category_id": 3, "segmentation": [[0, 0, 60_000, 2900] * 40]}],
        {"images": [{"id": 7, "file_name": "a.jpg", "height": 2900, "width": 60_000}]},
        "segmentation.0: an outline of 4,800,000 pixels; expected 4,194,304 at most",
    ),
    "no number": ([{"category_id": 3, "segmentation": [[0, 0, float("nan"), 0, 0, 9]]}], {}, "annotations.0.segment"),
    "category": ([{"category_id": 4, "segmentation": [TRIANGLE]}], {}, "no category has id 4"),
    "image": ([{"category_id": 3, "image_id": 8, "segmentation": [TRIANGLE]}], {}, "no image has id 8"),
    "key": ([{"segmentation": [TRIANGLE]}], {}, "annotations.0.category_id: Field required"),
    "lengths": ([{"category_id": 3, "segmentation": {"size": HW, "counts": [5, 10**12]}}], {}, "run lengths of"),
    "size": ([{"category_id": 3, "segmentation": {"size": [53, 37], "counts": [1961]}}], {}, "size (53, 37)"),
}


@pytest.mark.parametrize("case", BAD_COCO)
def test_bad_coco_is_one_line_with_file_and_key(case, tmp_path, monkeypatch):
    objects, over, says = BAD_COCO[case]
    monkeypatch.setattr(coco, "_pycocotools_mask", lambda: None)
    path = write_coco(tmp_path, objects, **over)
    with pytest.raises(DataError) as caught:
        drawn(coco, tmp_path)
    assert str(caught.value).startswith(str(path))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_of_another_size_than_its_annotations_is_refused(tmp_path):
    write_coco(tmp_path, [{"category_id": 3, "segmentation": {"size": HW, "counts": [HW[0] * HW[1]]}}])
    write_image(tmp_path / "train2017" / "a.jpg", (53, 37))
    with pytest.raises(DataError, match=r"image a\.jpg: height and width are 37 and 53, but a\.jpg has 53x37 pixels"):
        drawn(coco, tmp_path)


def test_json_that_is_cut_off_is_one_line(tmp_path):
    path = write_coco(tmp_path, [{"category_id": 3, "segmentation": [TRIANGLE]}])
    path.write_text(path.read_text()[:-5])
    with pytest.raises(DataError, match=r"cannot be read as JSON \(.*line 1 column"):
        find(coco, tmp_path)


def write_yolo(root: Path, lines: str, data: str = "train: images/train\nval: images/val\nnames: [car, cat]\n") -> Path:
    write_image(root / "images" / "train" / "a.jpg")
    (root / "data.yaml").write_text(data.replace("val: images/val\n", ""))
    path = root / "labels" / "train" / "a.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines)
    return path


def test_yolo_rectangles_are_their_pixels_and_smaller_ones_are_in_front(tmp_path):
    def line(number: int, top: int, left: int, bottom: int, right: int) -> str:
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return f"{number} " + " ".join(f"{(x + 0.5) / HW[1]} {(y + 0.5) / HW[0]}" for x, y in corners)

    write_yolo(tmp_path, f"{line(1, 5, 10, 9, 20)}\n\n{line(0, 2, 3, 30, 52)}\n")
    expected = np.zeros(HW, int)
    expected[2:31, 3:53] = 1
    expected[5:10, 10:21] = 2
    assert find(yolo, tmp_path).class_names == ["background", "car", "cat"]
    np.testing.assert_array_equal(drawn(yolo, tmp_path), expected)


def test_yolo_polygons_hold_every_pixel_inside_and_none_beyond_their_outline(tmp_path):
    points = np.array(POLYGON).reshape(-1, 2)
    write_yolo(tmp_path, "0 " + " ".join(f"{x / HW[1]:.9f} {y / HW[0]:.9f}" for x, y in points + 1e-4))
    label = drawn(yolo, tmp_path)
    floored = np.floor(points)
    edges = np.roll(floored, -1, axis=0) - floored
    for row in range(HW[0]):
        for column in range(HW[1]):
            to_pixel = (column, row) - floored  # signed distances to the edges, positive inside (clockwise on screen)
            distance = (edges[:, 0] * to_pixel[:, 1] - edges[:, 1] * to_pixel[:, 0]) / np.hypot(*edges.T)
            if distance.min() >= 0:
                assert label[row, column] == 1, (row, column)
            elif distance.min() < -1:  # the outline is a pixel wide at most
                assert label[row, column] == 0, (row, column)


@pytest.mark.parametrize("place", ["../train/images", "train/images", f"/content/{'a' * 5000}"])
def test_yolo_paths_of_exports_that_were_moved_are_found(place, tmp_path):
    write_image(tmp_path / "train" / "images" / "a.jpg")
    (tmp_path / "train" / "labels").mkdir()
    (tmp_path / "train" / "labels" / "a.txt").write_text("0 0 0 1 0 1 1\n")
    (tmp_path / "data.yaml").write_text(f"path: /elsewhere\ntrain: {place}\nnc: 1\nnames: {{0: car}}\n")
    if place.startswith("/"):
        with pytest.raises(DataError, match=r"data\.yaml: train: '/content.* is not in"):
            find(yolo, tmp_path)
    else:
        assert drawn(yolo, tmp_path).max() == 1


def test_a_class_number_of_5000_digits_is_one_line(tmp_path):
    write_yolo(tmp_path, "0 0 0 1 0 1 1\n")
    (tmp_path / "data.yaml").write_text(f"train: train/images\nnames:\n  ? '{'9' * 5000}'\n  : car\n")
    with pytest.raises(DataError, match=r"data\.yaml: names: expected a list of class names"):
        find(yolo, tmp_path)


BAD_YOLO = {
    "0 0.5 0.5 0.1 0.1": "line 1 is a box",
    "2 0 0 1 0 1 1": "line 1: class 2; data.yaml names 0 to 1",
    "0 0 0 1 0 1 1\n0 0 0 1 0 1": "line 2: expected a class and x, y of points",
    "0 0 0 1 0": "line 1 is a box",
    "0 0 0": "line 1: 1 points; expected three at least",
    "0 10 10 100 10 100 100": "line 1: a point outside of 0..1",
    "0 0 0 nan 0 1 1": "line 1: a point outside of 0..1",
    "car 0 0 1 0 1 1": "line 1: expected a class",
    "0_1 0 0 1 0 1 1": "line 1: expected a class",
}


@pytest.mark.parametrize("lines", BAD_YOLO)
def test_bad_yolo_is_one_line_with_file_and_number(lines, tmp_path):
    path = write_yolo(tmp_path, lines)
    with pytest.raises(DataError) as caught:
        drawn(yolo, tmp_path)
    assert str(caught.value).startswith(f"{path}: {BAD_YOLO[lines]}")


def write_labelme(root: Path, shapes: list[dict[str, Any]], **over: Any) -> Path:
    write_image(root / "a.jpg")
    content = {"imagePath": "a.jpg", "imageHeight": HW[0], "imageWidth": HW[1], "imageData": None, "shapes": shapes}
    path = root / "a.json"
    path.write_text(json.dumps(content | over))
    return path


def packed(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture * 255).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PICTURE = np.zeros((4, 6), np.uint8)
PICTURE[1:3, 2:5] = 1
PACKED = packed(PICTURE)


def test_labelme_shapes_are_drawn_in_their_order(tmp_path):
    shapes: list[dict[str, Any]] = [
        {"label": "cat", "shape_type": "rectangle", "points": [[40.2, 30.9], [3.5, 2.5]]},
        {"label": "car", "points": [[5, 5], [20, 5], [20, 9], [5, 9]]},
        {"label": "__ignore__", "shape_type": "rectangle", "points": [[45, 0], [60, 99]]},
        {"label": "_background_", "shape_type": "rectangle", "points": [[5, 12], [7, 13]]},
        {"label": "cat", "shape_type": "rectangle", "points": [[53, 0], [60, 9]]},  # beside the image
        {"label": "car", "shape_type": "circle", "points": [[25, 20], [28, 20]]},
        {"label": "car", "shape_type": "mask", "points": [[30, 15], [35, 18]], "mask": PACKED},
    ]
    write_labelme(tmp_path, shapes)
    expected = np.zeros(HW, int)
    expected[2:31, 3:41] = 2
    expected[5:10, 5:21] = 1
    expected[:, 45:] = 255
    expected[12:14, 5:8] = 0
    rows, columns = np.indices(HW)
    expected[np.hypot(rows - 20, columns - 25) <= 3] = 1
    expected[16:18, 32:35] = 1
    assert find(labelme, tmp_path).class_names == ["background", "car", "cat"]
    label = drawn(labelme, tmp_path)
    differs = np.argwhere(label != expected)  # OpenCV rounds the outline of the circle
    assert len(differs) <= 12
    assert all(abs(np.hypot(r - 20, c - 25) - 3) < 1 for r, c in differs)


OUTSIDE = [[-40.0, -30.0], [100.0, 20.0], [-20.0, 70.0]]


@pytest.mark.parametrize("module", [labelme, yolo])
def test_a_polygon_that_leaves_the_image_keeps_its_edges_inside(module, tmp_path, monkeypatch):
    monkeypatch.setattr(yolo, "TOLERANCE", 2.0)
    write_labelme(tmp_path, [{"label": "cat", "points": OUTSIDE}])
    if module is yolo:
        write_yolo(tmp_path, "0 " + " ".join(f"{(x + 1e-4) / HW[1]:.9f} {(y + 1e-4) / HW[0]:.9f}" for x, y in OUTSIDE))
    label = drawn(module, tmp_path)
    points = np.array(OUTSIDE)
    edges = np.roll(points, -1, axis=0) - points
    to_pixel = np.stack(np.indices(HW)[::-1], -1)[:, :, None] - points  # signed distances, positive inside
    distance = ((edges[:, 0] * to_pixel[..., 1] - edges[:, 1] * to_pixel[..., 0]) / np.hypot(*edges.T)).min(-1)
    assert (label[distance >= 0] == 1).all()
    assert (label[distance < -1] == 0).all()
    assert 0 < label.mean() < 1


@pytest.mark.parametrize("points", [[[3, 2], [20, 10]], [[3, 2], [20, 2], [20, 10], [3, 10]]])
def test_a_labelme_rectangle_has_two_or_four_corners(points, tmp_path):
    write_labelme(tmp_path, [{"label": "a", "shape_type": "rectangle", "points": points}])
    expected = np.zeros(HW, int)
    expected[2:11, 3:21] = 1
    np.testing.assert_array_equal(drawn(labelme, tmp_path), expected)


def test_a_circle_around_a_point_outside_covers_the_image_up_to_its_radius(tmp_path):
    for outline, covered in (([106.0, 37.0], 1.0), ([-20.0, -37.0], 0.0)):
        write_labelme(tmp_path, [{"label": "a", "shape_type": "circle", "points": [[-53.0, -37.0], outline]}])
        assert drawn(labelme, tmp_path).mean() == covered


@pytest.mark.parametrize("content", [b"", b"\0" * 9, b"{}"])
def test_a_damaged_labelme_file_beside_its_image_is_an_error(content, tmp_path):
    write_labelme(tmp_path, [{"label": "cat", "points": [[0, 0], [9, 0], [9, 9]]}])
    write_image(tmp_path / "b.jpg")
    (tmp_path / "b.json").write_bytes(content)
    with pytest.raises(DataError, match=r"b\.json: "):
        find(labelme, tmp_path)


def test_a_yolo_class_number_that_stands_there_twice_is_refused(tmp_path):
    write_yolo(tmp_path, "0 0 0 1 0 1 1", 'train: images/train\nval: images/val\nnames: {0: car, "0": cat, 1: dog}\n')
    with pytest.raises(DataError, match=r"data\.yaml: names: one name stands there twice, or one number"):
        find(yolo, tmp_path)


def test_labels_txt_gives_the_order_of_labelmes_classes(tmp_path):
    write_labelme(tmp_path, [{"label": "cat", "points": [[0, 0], [9, 0], [9, 9]]}])
    (tmp_path / "labels.txt").write_text("\ufeff__ignore__\r\n_background_\r\ncat\r\ncar\r\n", newline="")
    assert find(labelme, tmp_path).class_names == ["background", "cat", "car"]
    (tmp_path / "labels.txt").write_text("cat\ncar\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"labels\.txt: cannot be read \(not UTF-8 text\); expected a class a line"):
        find(labelme, tmp_path)


@pytest.mark.parametrize("image_path", ["../images/b.jpg", "..\\images\\b.jpg"])
def test_labelmes_files_may_lie_in_a_folder_of_their_own(image_path, tmp_path):
    write_image(tmp_path / "images" / "b.jpg")
    (tmp_path / "json").mkdir()
    square = [{"label": "cat", "points": [[0, 0], [9, 0], [9, 9]]}]
    write_labelme(tmp_path, square, imagePath=image_path).rename(tmp_path / "json" / "b.json")
    assert [image.path.name for image in find(labelme, tmp_path).images] == ["b.jpg"]
    write_labelme(tmp_path, square, imagePath="b.jpg").rename(tmp_path / "json" / "c.json")
    with pytest.raises(DataError, match=r"c\.json: imagePath: 'b\.jpg' is not there, .*; put both into one folder"):
        find(labelme, tmp_path)


def test_yolo_paths_of_windows_are_read_and_those_of_another_machine_refused(tmp_path):
    polygon = "0 0 0 1 0 1 1"
    write_yolo(tmp_path, polygon, "path: C:\\x\ntrain: images\\train\nnames: [car, cat]\n")
    assert len(find(yolo, tmp_path).images) == 1
    (tmp_path / "list.txt").write_text("images\\train\\a.jpg\n")
    write_yolo(tmp_path, polygon, "train: list.txt\nnames: [car, cat]\n")
    assert len(find(yolo, tmp_path).images) == 1
    (tmp_path / "list.txt").write_text("/content/x/images/train/a.jpg\n")
    with pytest.raises(DataError, match=r"list\.txt: .* its paths may be relative to it, such as images/train/a\.jpg"):
        find(yolo, tmp_path)
    write_yolo(tmp_path, polygon, "train: /content/x/images/train\nnames: [car, cat]\n")
    with pytest.raises(
        DataError, match=r"is not in .*; write it relative to data\.yaml, such as images/train, or give"
    ):
        find(yolo, tmp_path)


def test_a_yolo_export_may_lie_one_folder_down_and_name_splits_as_cvat_does(tmp_path):
    write_yolo(tmp_path / "x", "0 0 0 1 0 1 1", "Train: images/train\nValidation: images/test\nnames: [car, cat]\n")
    write_image(tmp_path / "x" / "images" / "test" / "b.jpg")
    shutil.copytree(tmp_path / "x" / "labels" / "train", tmp_path / "x" / "labels" / "test")
    (tmp_path / "x" / "labels" / "test" / "a.txt").rename(tmp_path / "x" / "labels" / "test" / "b.txt")
    assert [image.split for image in find(yolo, tmp_path).images] == ["train", "val"]
    assert plan_folder(tmp_path).data["image_folder"] == "x/images"


def test_coco_names_with_other_folders_than_the_images_are_refused_with_what_to_correct(tmp_path):
    images = [{"id": 7, "file_name": "images\\1/a.jpg", "height": HW[0], "width": HW[1]}]
    write_coco(tmp_path, [{"category_id": 3, "segmentation": {"size": HW, "counts": [37, 37, 51 * 37]}}], images=images)
    with pytest.raises(DataError, match=r"none of its images .*1/a\.jpg; correct the folders in these names, or give"):
        find(coco, tmp_path)


def test_class_names_fit_into_a_line_of_the_table(tmp_path):
    write_labelme(tmp_path, [{"label": "big\t cat\n", "points": [[0, 0], [9, 0], [9, 9]]}])
    assert find(labelme, tmp_path).class_names == ["background", "big cat"]


BAD_LABELME = {
    "line": (
        [{"label": "a", "shape_type": "line", "points": [[0, 0], [9, 9]]}],
        {},
        "shapes.0.shape_type: 'line' is not drawn",
    ),
    "points": ([{"label": "a", "points": [[0, 0], [9, 9]]}], {}, "shapes.0.points: 2 points of a polygon"),
    "three corners": (
        [{"label": "a", "shape_type": "rectangle", "points": [[0, 0], [9, 9], [9, 0]]}],
        {},
        "shapes.0.points: 3 points of a rectangle; expected 2 or 4",
    ),
    "huge": ([{"label": "a", "points": [[0, 0], [9, 1e300], [9, 9]]}], {}, "shapes.0.points: lies far outside of"),
    "circle": (
        [{"label": "a", "shape_type": "circle", "points": [[-200, 24], [30, 24]]}],
        {},
        "shapes.0.points: lies far outside of its image of 37x53 pixels",
    ),
    "key": ([{"points": []}], {}, "shapes.0.label: Field required"),
    "image": ([], {"imagePath": "b/c.jpg", "other": 1}, "height and width are 37 and 53, but a.jpg has 5x5"),
    "mask": (
        [{"label": "a", "shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": "x"}],
        {},
        "shapes.0.mask: no P",
    ),
    "corners": (
        [{"label": "a", "shape_type": "mask", "points": [[0, 0], [30, 20]], "mask": PACKED}],
        {},
        "shapes.0.mask: leaves its image, or its points are no corners of it",
    ),
    "outline": (
        [{"label": "a", "points": [[0, 0], [50, 30]] * 500}],
        {},
        "shapes.0.points: an outline of 50,000 pixels",
    ),
}


def test_classes_that_differ_in_spaces_only_are_refused(tmp_path):
    for stem, name in (("a", "big cat"), ("b", "big  cat")):
        write_labelme(tmp_path / stem, [{"label": name, "points": [[0, 0], [9, 0], [9, 9]]}])
    with pytest.raises(DataError, match="two classes are called 'big cat', but for spaces"):
        plan_folder(tmp_path)


def test_a_class_of_spaces_is_refused(tmp_path):
    for stem in "ab":
        write_labelme(tmp_path / stem, [{"label": " ", "points": [[0, 0], [9, 9], [0, 9]]}])
    with pytest.raises(DataError, match="give it a name of 1 to 200 characters"):
        plan_folder(tmp_path)


def test_one_image_is_too_few(tmp_path):
    write_labelme(tmp_path, [{"label": "cat", "points": [[0, 0], [9, 0], [9, 9]]}])
    with pytest.raises(DataError, match="one image with a label; expected two at least"):
        plan_folder(tmp_path)


@pytest.mark.parametrize("case", BAD_LABELME)
def test_bad_labelme_is_one_line_with_file_and_key(case, tmp_path):
    shapes, over, says = BAD_LABELME[case]
    path = write_labelme(tmp_path, shapes, **over)
    if case == "image":
        write_image(tmp_path / "a.jpg", (5, 5))
    with pytest.raises(DataError) as caught:
        drawn(labelme, tmp_path)
    assert str(caught.value).startswith(str(path))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def write_panoptic(root: Path, segments: list[dict[str, int]], pixels: np.ndarray, **over: Any) -> None:
    write_image(root / "train2017" / "a.jpg")
    folder = root / "annotations" / "panoptic_train2017"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([pixels & 255, pixels >> 8 & 255, pixels >> 16], -1).astype(np.uint8)).save(
        folder / "a.png"
    )
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": HW[0], "width": HW[1]}],
        "annotations": [{"image_id": 7, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 90, "name": "sea", "isthing": 0}, {"id": 3, "name": "car", "isthing": 1}],
    }
    folder.with_suffix(".json").write_text(json.dumps(content | over))


def write_two_panoptic(root: Path, segments: list[dict[str, int]], pixels: np.ndarray, **over: Any) -> None:
    two = [(7, "a"), (8, "b")]
    images = [{"id": i, "file_name": f"{name}.jpg", "height": HW[0], "width": HW[1]} for i, name in two]
    labels = [{"image_id": i, "file_name": f"{name}.png", "segments_info": segments} for i, name in two]
    write_panoptic(root, segments, pixels, images=images, annotations=labels, **over)
    for path in (root / "train2017" / "a.jpg", root / "annotations" / "panoptic_train2017" / "a.png"):
        shutil.copy(path, path.with_stem("b"))


def test_panoptic_segments_become_their_categories_and_segment_0_is_ignored(tmp_path):
    ids = np.random.default_rng(0).choice([0, 5, 300, 70_000], HW)
    segments = [{"id": 5, "category_id": 90}, {"id": 300, "category_id": 3}, {"id": 70_000, "category_id": 90}]
    write_panoptic(tmp_path, segments, ids)
    annotations = find(coco, tmp_path)
    assert annotations.class_names == ["car", "sea"]
    assert len(annotations.files) == 2
    (image,) = annotations.images
    assert image.split == "train"
    label = image.draw()
    for row in range(HW[0]):
        for column in range(HW[1]):
            assert label[row, column] == {0: 255, 5: 1, 300: 0, 70_000: 1}[ids[row, column]]
    write_two_panoptic(tmp_path, segments, ids)
    assert plan_folder(tmp_path).data["label_folder"] == "segnl_labels"


@pytest.mark.parametrize(
    ("segments", "over", "message"),
    [
        ([], {}, r"a\.png: holds segment 5, which panoptic_train2017\.json does not name"),
        ([{"id": 5, "category_id": 4}], {}, r"annotations\.0: category 4 is not in the file"),
        ([{"id": 5, "category_id": 3}], {"images": []}, r"annotations\.0: image 7 is not in the file"),
        ([{"id": "x", "category_id": 3}], {}, r"annotations\.0\.segments_info\.0\.id: .*expected COCO panoptic"),
        ([{"id": 0, "category_id": 3}], {}, r"annotations\.0\.segments_info\.0\.id: .*greater than or equal to 1"),
        (
            [{"id": 5, "category_id": 3}, {"id": 5, "category_id": 90}],
            {},
            r"annotations\.0\.segments_info: an id is listed twice",
        ),
        (
            [{"id": 5, "category_id": 3}],
            {"images": [{"id": 7, "file_name": name, "height": 37, "width": 53} for name in ("b.jpg", "a.jpg")]},
            "images: two have id 7",
        ),
    ],
)
def test_a_broken_panoptic_file_is_one_line(segments, over, message, tmp_path):
    write_panoptic(tmp_path, segments, np.full(HW, 5), **over)
    with pytest.raises(DataError, match=message):
        drawn(coco, tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["sea"], "has 1 classes; expected 2 to 253: .* name the background"),
        ([str(i) for i in range(254)], "has 254 classes; expected 2 to 253"),
        ([str(i) for i in range(257)], "has 257 classes; expected 2 to 253"),
        (["sea", ""], "a class is called ''"),
    ],
)
def test_panoptic_categories_that_no_class_table_holds_are_refused_before_the_first_file(names, message, tmp_path):
    categories = [{"id": 3 + i, "name": name} for i, name in enumerate(names)]
    write_two_panoptic(tmp_path, [{"id": 5, "category_id": 3}], np.full(HW, 5), categories=categories)
    with pytest.raises(DataError, match=message):
        plan_folder(tmp_path)


def rotate(image: Path, orientation: int = 3) -> None:
    tag = Image.Exif()
    tag[0x0112] = orientation
    Image.open(image).save(image, exif=tag)


def test_annotations_of_an_image_with_an_orientation_are_not_drawn_elsewhere(tmp_path, caplog):
    write_labelme(tmp_path / "lm", [{"label": "cat", "points": [[0, 0], [9, 0], [9, 9]]}])
    write_yolo(tmp_path / "yolo", "1 0.1 0.1 0.5 0.1 0.5 0.5\n")
    for module, root, image in ((labelme, "lm", "a.jpg"), (yolo, "yolo", "images/train/a.jpg")):
        rotate(tmp_path / root / image)
        with pytest.raises(DataError, match=r"a\.jpg: EXIF orientation 3: it was annotated rotated"):
            drawn(module, tmp_path / root)
    write_coco(tmp_path / "coco", [{"category_id": 3, "segmentation": {"size": HW, "counts": [HW[0] * HW[1]]}}])
    rotate(tmp_path / "coco" / "train2017" / "a.jpg")
    drawn(coco, tmp_path / "coco")
    assert "a.jpg: EXIF orientation 3; annotations are taken for pixels as stored" in caplog.text
