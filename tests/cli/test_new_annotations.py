"""`segnl new` on folders of annotations: COCO instances, YOLO polygons, LabelMe."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnl.cli.main import main
from segnl.core.errors import DataError
from segnl.data.annotations.labels import require_current
from segnl.data.find import DATASETS
from segnl.runs.recipe import load_recipe
from segnl.training.fit import fit

HW = (37, 53)
SQUARE = [[5.0, 5.0], [20.0, 5.0], [20.0, 30.0], [5.0, 30.0]]


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (HW[1], HW[0]), (9, 9, 9)).save(path)


def coco_file(path: Path, names: list[str]) -> None:
    """Each image holds a road of run lengths in its first two columns."""
    images = [{"id": i, "file_name": name, "height": HW[0], "width": HW[1]} for i, name in enumerate(names)]
    lengths = {"size": HW, "counts": [0, 2 * HW[0], (HW[1] - 2) * HW[0]]}
    objects = [{"id": i, "image_id": i, "category_id": 9, "segmentation": lengths} for i in range(len(names))]
    path.parent.mkdir(parents=True, exist_ok=True)
    categories = [{"id": 9, "name": "road"}, {"id": 2, "name": "sky"}]
    path.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))


def coco(root: Path) -> None:
    for split, count in (("train2017", 4), ("val2017", 2)):
        names = [f"{split}{i}.jpg" for i in range(count)]
        coco_file(root / "annotations" / f"instances_{split}.json", names)
        for name in names:
            write_image(root / split / name)


def coco_beside(root: Path) -> None:
    for split, count in (("train", 4), ("valid", 2)):
        coco_file(root / split / "_annotations.coco.json", [f"{i}.jpg" for i in range(count)])
        for i in range(count):
            write_image(root / split / f"{i}.jpg")


def yolo(root: Path) -> None:
    line = "0 " + " ".join(f"{x / HW[1]} {y / HW[0]}" for x, y in SQUARE)
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            write_image(root / "images" / split / f"{split}{i}.png")
            label = root / "labels" / split / f"{split}{i}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(line)
    (root / "data.yaml").write_text("path: ../datasets/x\ntrain: images/train\nval: images/val\nnames: {0: road}\n")


def labelme(root: Path) -> None:
    for i in range(6):
        write_image(root / f"{i}.jpg")
        content = {"imagePath": f"{i}.jpg", "imageHeight": HW[0], "imageWidth": HW[1], "shapes": []}
        (root / f"{i}.json").write_text(json.dumps(content | {"shapes": [{"label": "road", "points": SQUARE}]}))


def test_a_pipe_in_place_of_a_label_is_a_data_error(tmp_path, monkeypatch, capsys):
    yolo(tmp_path / "mine")
    label = tmp_path / "mine" / "labels" / "train" / "train0.txt"
    label.unlink()
    os.mkfifo(label)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 3
    assert f"{label}: cannot be read (no such file, or a pipe or a device)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["segnl_splits", "segnl_labels"])
def test_nothing_is_written_through_a_link(name, tmp_path, monkeypatch, capsys):
    root, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    labelme(root)
    elsewhere.mkdir()
    (root / name).symlink_to(elsewhere)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 2
    assert f"{name}: is a symbolic link to {elsewhere}; remove it" in capsys.readouterr().err
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("make", [coco, coco_beside, yolo, labelme])
def test_annotations_become_labels_splits_and_a_recipe(make, tmp_path, monkeypatch, capsys):
    root = tmp_path / "mine"
    make(root)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0, capsys.readouterr().err
    recipe = load_recipe(tmp_path / "mine.yaml")
    train, val = (DATASETS.find("folder")(recipe.data, split) for split in ("train", "val"))
    assert (len(train), len(val)) == ((5, 1) if make is labelme else (4, 2))
    assert list(train.table.names) == ["background", "road"]
    for data in (train, val):
        for i in range(len(data)):
            assert set(np.unique(data.read(i).label)) == {0, 1}
    assert "copies, which do not follow later changes" in capsys.readouterr().out
    assert main(["check", "--config", "mine.yaml"]) == 0


def test_labels_that_are_there_are_kept_and_missing_ones_are_drawn(tmp_path, monkeypatch, capsys):
    coco(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0
    first, second = sorted((tmp_path / "mine" / "segnl_labels" / "train2017").iterdir())[:2]
    edited = np.full(HW, 1, np.uint8)
    Image.fromarray(edited).save(first)
    before = second.read_bytes()
    second.unlink()
    (tmp_path / "mine" / "classes.tsv").write_text("index\tname\tr\tg\tb\n0\tother\t1\t1\t1\n1\tstreet\t2\t2\t2\n")
    assert main(["new", "mine", "--out", "again.yaml"]) == 0, capsys.readouterr().err
    assert second.read_bytes() == before
    assert (np.asarray(Image.open(first)) == 1).all()
    assert "street" in (tmp_path / "mine" / "classes.tsv").read_text()


def test_labels_of_earlier_annotations_are_stale(tmp_path, monkeypatch, capsys):
    yolo(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0
    (tmp_path / "mine" / "labels" / "val" / "val1.txt").write_text("0 0 0 0.5 0 0.5 0.5\n")
    assert main(["new", "mine", "--out", "again.yaml"]) == 2
    assert "segnl_labels: the labels are stale: the annotations in" in capsys.readouterr().err
    assert not (tmp_path / "again.yaml").exists()


@pytest.mark.parametrize("change", ["edited", "removed", "added"])
def test_check_and_training_notice_labels_of_earlier_annotations(change, tmp_path, monkeypatch, capsys):
    yolo(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0
    assert main(["check", "--config", "mine.yaml"]) == 0
    (tmp_path / "mine" / "remarks.txt").write_text("no annotation")
    Image.new("P", HW[::-1]).save(tmp_path / "mine" / "segnl_labels" / "val" / "val1.png")  # corrected by hand
    data = DATASETS.find("folder")(load_recipe(tmp_path / "mine.yaml").data, "train")
    require_current(data.label_folder())
    labels = tmp_path / "mine" / "labels" / "val"
    if change == "added":
        (labels / "another.txt").write_text("")
    elif change == "removed":
        (labels / "val1.txt").unlink()
    else:
        (labels / "val1.txt").write_text("0 0 0 0.5 0 0.5 0.5\n")
    with pytest.raises(DataError, match="segnl_labels: the labels are stale"):
        fit(load_recipe(tmp_path / "mine.yaml"), tmp_path / "run")
    capsys.readouterr()
    assert main(["check", "--config", "mine.yaml"]) == 3
    assert "stale: the labels are stale: the annotations in" in capsys.readouterr().out


@pytest.mark.parametrize("files", [["/dev/zero"], ["\0"], 7, [7]])
def test_a_record_of_a_stranger_is_one_line(files, tmp_path, monkeypatch):
    yolo(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0
    record = tmp_path / "mine" / "segnl_labels" / "drawn_from.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"files": files}))
    data = DATASETS.find("folder")(load_recipe(tmp_path / "mine.yaml").data, "train")
    with pytest.raises(DataError, match=r"the labels are stale|cannot be read"):
        require_current(data.label_folder())


def test_annotations_in_an_archive_are_drawn_beside_it(tmp_path, monkeypatch):
    yolo(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    shutil.make_archive("packed", "zip", tmp_path, "mine")
    assert main(["new", "packed.zip"]) == 0
    assert main(["new", "mine"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("mine", "mine.yaml", "packed.yaml", "packed.zip", "packed_segnl")
    ]
    for split in ("train", "val"):
        packed, plain = (
            DATASETS.find("folder")(load_recipe(tmp_path / recipe).data, split)
            for recipe in ("packed.yaml", "mine.yaml")
        )
        assert packed.sample_ids == plain.sample_ids
        assert packed.table.names == plain.table.names
        for i in range(len(plain)):
            assert (packed.read(i).label == plain.read(i).label).all()
            assert (packed.read(i).image == plain.read(i).image).all()
    with zipfile.ZipFile("packed.zip", "a") as archive:
        archive.writestr("mine/labels/val/new.txt", "")
    with pytest.raises(DataError, match="segnl_labels: the labels are stale"):
        require_current(packed.label_folder())


def test_images_of_no_split_are_train_beside_those_of_val(tmp_path, monkeypatch, capsys):
    labelme(tmp_path / "mine")
    for suffix in (".jpg", ".json"):
        (tmp_path / "mine" / "val").mkdir(exist_ok=True)
        (tmp_path / "mine" / f"0{suffix}").rename(tmp_path / "mine" / "val" / f"0{suffix}")
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0
    assert "splits: 5 images of no split are train" in capsys.readouterr().out
    assert (tmp_path / "mine" / "segnl_splits" / "val.txt").read_text() == "val/0\n"


def test_a_foreign_folder_of_that_name_is_left_alone(tmp_path, monkeypatch, capsys):
    labelme(tmp_path / "mine")
    (tmp_path / "mine" / "segnl_labels").mkdir()
    (tmp_path / "mine" / "segnl_labels" / "note.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 2
    assert "holds other files than labels that segnl drew" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine" / "segnl_labels").iterdir()] == ["note.txt"]


def test_a_run_that_was_killed_is_continued_and_its_temporary_files_go(tmp_path, monkeypatch, capsys):
    root = tmp_path / "mine"
    coco(root)
    monkeypatch.chdir(tmp_path)
    (root / "segnl_labels").mkdir()
    (root / "segnl_labels" / ".drawn_from.json.segnl-ad304c40").write_text("x")  # killed a moment ago
    assert main(["new", "mine"]) == 0, capsys.readouterr().err
    places = [root, root / "segnl_splits", root / "segnl_labels", root / "segnl_labels" / "val2017"]
    for place in places:
        (place / ".a.segnl-ad304c41").write_text("x")
        os.utime(place / ".a.segnl-ad304c41", (1e9, 1e9))
    assert main(["new", "mine", "--out", "again.yaml"]) == 0, capsys.readouterr().err
    assert [path.name for path in root.rglob(".*")] == [".drawn_from.json.segnl-ad304c40"]


@pytest.mark.parametrize(("name", "says"), [("train", "train and val"), ("all", "none and val")])
def test_an_image_in_two_splits_is_refused(name, says, tmp_path, monkeypatch, capsys):
    for i in range(3):
        write_image(tmp_path / "mine" / "images" / f"{i}.jpg")
    coco_file(tmp_path / "mine" / f"{name}.json", ["0.jpg", "1.jpg"])
    coco_file(tmp_path / "mine" / "val.json", ["1.jpg", "2.jpg"])
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 3
    assert f"'1' is in splits {says}; keep it in one" in capsys.readouterr().err


def test_val_is_dealt_where_yolo_names_one_folder_for_both(tmp_path, monkeypatch):
    yolo(tmp_path / "mine")
    data = tmp_path / "mine" / "data.yaml"
    data.write_text(data.read_text().replace("images/val", "images/train"))
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0
    lists = [(tmp_path / "mine" / "segnl_splits" / f"{split}.txt").read_text().split() for split in ("train", "val")]
    assert [len(names) for names in lists] == [3, 1]
    assert not set(lists[0]) & set(lists[1])


def test_yolo_labels_without_data_yaml_say_what_is_missing(tmp_path, monkeypatch, capsys):
    yolo(tmp_path / "mine")
    (tmp_path / "mine" / "data.yaml").unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 3
    assert "perhaps YOLO labels: these need a data.yaml with names, train and val" in capsys.readouterr().err
