"""Files are paired whatever the layout, or a message says why not."""

import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segnl.core.config import validate
from segnl.core.errors import ConfigError, DataError
from segnl.data.datasets.ade20k import ADE20K
from segnl.data.datasets.cityscapes import Cityscapes
from segnl.data.datasets.folder import Folder
from segnl.data.digest import content_digest

CLASSES = "index\tname\tr\tg\tb\n0\ta\t1\t2\t3\n1\tb\t4\t5\t6\n"


def write_image(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((7, 11, 3), level, np.uint8)).save(path)


def write_label(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((7, 11), level, np.uint8)).save(path)


def write_pairs(root: Path, *names: str, split: str = "train") -> None:
    """Pairs whose image and label have one level, the number of their name."""
    (root / "classes.tsv").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.tsv").write_text(CLASSES)
    for name in names:
        write_image(root / f"images/{split}/{name}.png")
        write_label(root / f"labels/{split}/{name}.png")


def open_split(root: Path, split: str = "train", dataset: Any = Folder, **settings: object) -> Any:
    mapping = {"name": "x", "root": str(root), "crop_hw": [7, 11], **settings}
    return dataset(validate(dataset.Config, mapping, file="recipe", at="data"), split)


# ---- folders ----


def test_nested_pairs_are_all_read_and_named_by_sub_folder(tmp_path):
    write_pairs(tmp_path, "top", "a/one", "a/two", "b/deep/one")
    assert open_split(tmp_path).sample_ids == ["a/one", "a/two", "b/deep/one", "top"]
    assert open_split(tmp_path, recursive=False).sample_ids == ["top"]


def test_a_label_in_another_sub_folder_is_named(tmp_path):
    write_pairs(tmp_path, "top", "a/one")
    (tmp_path / "labels/train/a/one.png").rename(tmp_path / "labels/train/one.png")
    with pytest.raises(DataError, match=r"one\.png: no label .*; .*/labels/train/one\.png has its name, but lies in"):
        open_split(tmp_path)


def test_one_stem_in_two_city_folders_is_two_pairs(tmp_path):
    for level, city in enumerate(("b", "a")):
        write_image(tmp_path / f"leftImg8bit/val/{city}/0_leftImg8bit.png", level)
        write_label(tmp_path / f"gtFine/val/{city}/0_gtFine_labelIds.png", 7 + level)
    data = open_split(tmp_path, "val", Cityscapes)
    assert data.sample_ids == ["a/0", "b/0"]
    assert [(data.read(i).image[0, 0, 0], data.read(i).label[0, 0]) for i in range(2)] == [(1, 1), (0, 0)]


def test_one_frame_in_two_folders_of_its_city_is_refused_naming_both(tmp_path):
    for folder in ("leftImg8bit/val", "leftImg8bit/val/ulm"):
        write_image(tmp_path / folder / "ulm_0_1_leftImg8bit.png")
    write_label(tmp_path / "gtFine/val/ulm/ulm_0_1_gtFine_labelIds.png", 7)
    with pytest.raises(DataError, match=r"val/ulm/ulm_0_1_l.*: .*val/ulm_0_1_leftImg8bit\.png has the same name"):
        open_split(tmp_path, "val", Cityscapes)


def test_linked_city_folders_are_read_with_or_without_needed_labels(tmp_path):
    write_image(tmp_path / "disk/images/ulm_000000_000019_leftImg8bit.png")
    write_label(tmp_path / "disk/labels/ulm_000000_000019_gtFine_labelIds.png", 7)
    for kind, target in (("leftImg8bit", "images"), ("gtFine", "labels")):
        (tmp_path / kind / "val").mkdir(parents=True)
        (tmp_path / kind / "val/ulm").symlink_to(tmp_path / "disk" / target)
    cfg = open_split(tmp_path, "val", Cityscapes).cfg
    data = Cityscapes(cfg, "val", needs_labels=False)
    assert data.has_labels
    assert (data.read(0).label == 0).all()


# ---- names ----


def test_a_name_composed_here_and_decomposed_there_is_one_name(tmp_path):
    write_pairs(tmp_path, "x")
    write_image(tmp_path / "images/train" / (unicodedata.normalize("NFD", "Zürich") + ".png"))
    write_label(tmp_path / "labels/train" / (unicodedata.normalize("NFC", "Zürich") + ".png"))
    assert open_split(tmp_path).sample_ids == [unicodedata.normalize("NFC", "Zürich"), "x"]
    write_image(tmp_path / "images/train" / (unicodedata.normalize("NFC", "Zürich") + ".png"))
    with pytest.raises(DataError, match=r"u\\u0308rich\.png'.*xfcrich\.png'|xfcrich\.png'.*u\\u0308rich\.png'"):
        open_split(tmp_path)


def test_a_name_that_is_not_utf8_is_read_and_has_a_digest(tmp_path):
    write_pairs(tmp_path, os.fsdecode(b"Stra\xdfe"))
    data = open_split(tmp_path)
    assert data.sample_ids == ["Stra\\xdfe"]
    assert data.read(0).id == "Stra\\xdfe"
    assert len(content_digest(data)) == 64


# ---- suffixes, splits, lists, folds ----


def test_images_and_labels_of_one_folder_are_told_apart_by_their_suffix(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / f"all/{name}.png")
        write_label(tmp_path / f"all/{name}_mask.png", 1)
    (tmp_path / "classes.tsv").write_text(CLASSES)
    settings = {"image_folder": "all", "label_folder": "all", "label_suffix": "_mask"}
    data = open_split(tmp_path, fold={"count": 2, "number": 0}, **settings)
    other = open_split(tmp_path, "val", fold={"count": 2, "number": 0}, **settings)
    assert sorted(data.sample_ids + other.sample_ids) == ["a", "b"]
    assert (data.read(0).label == 1).all()


def test_suffixes_and_names_of_splits_hold_for_cityscapes_and_ade20k(tmp_path):
    write_image(tmp_path / "leftImg8bit/valid/ulm/ulm_0_leftImg8bit.jpg")
    write_label(tmp_path / "gtFine/valid/ulm/ulm_0_gtCoarse_labelIds.png", 8)
    settings = {"splits": {"val": "valid"}, "image_suffix": "_leftImg8bit.jpg", "label_suffix": "_gtCoarse_labelIds"}
    assert (open_split(tmp_path, "val", Cityscapes, **settings).read(0).label == 1).all()
    write_image(tmp_path / "images/mine/ADE_1.png")
    write_label(tmp_path / "annotations/mine/ADE_1_seg.png", 3)
    settings = {"splits": {"train": "mine"}, "image_suffix": ".png", "label_suffix": "_seg"}
    assert (open_split(tmp_path, "train", ADE20K, **settings).read(0).label == 2).all()


def test_a_list_names_the_samples_of_a_split(tmp_path):
    write_pairs(tmp_path, "a", "b", "sub/c")
    lists = {"image_folder": "images/train", "label_folder": "labels/train", "samples": "{split}.txt"}
    (tmp_path / "train.txt").write_text("sub/c.png\n\na\n")
    (tmp_path / "val.txt").write_text("b\n")
    (tmp_path / "labels/train/a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: no label belongs to it"):
        open_split(tmp_path, **lists)
    (tmp_path / "train.txt").write_text("sub/c.png\n")
    assert open_split(tmp_path, **lists).sample_ids == ["sub/c"]  # a, which has no label, is in no list
    assert open_split(tmp_path, "val", **lists).sample_ids == ["b"]
    for text, message in (
        ("a\nx\n", r"train\.txt: line 2 names 'x', which has no image"),
        ("b\nb\n", r"train\.txt: line 2 names 'b' again"),
        ("\n", "names no sample"),
    ):
        (tmp_path / "train.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            open_split(tmp_path, **lists)


def test_folds_share_the_samples_and_each_is_held_out_once(tmp_path):
    names = [f"{i:02d}" for i in range(11)]
    write_pairs(tmp_path, *names)
    write_pairs(tmp_path, "other", split="test")
    held_out = []
    for number in range(3):
        fold = {"count": 3, "number": number, "seed": 5}
        train, val = (open_split(tmp_path, split, fold=fold).sample_ids for split in ("train", "val"))
        assert sorted(train + val) == names
        held_out.append(val)
    assert sorted(id_ for ids in held_out for id_ in ids) == names
    assert sorted(map(len, held_out)) == [3, 4, 4]
    assert open_split(tmp_path, "test", fold=fold).sample_ids == ["other"]
    again, another = (open_split(tmp_path, "val", fold={**fold, "seed": seed}).sample_ids for seed in (5, 6))
    assert again == held_out[2] != another


def test_a_group_is_in_one_fold(tmp_path):
    names = [f"{drive}_{i}" for drive, frames in (("a", 5), ("b", 2), ("c", 4), ("d", 1)) for i in range(frames)]
    write_pairs(tmp_path, *names)
    held_out = []
    for number in range(3):
        fold = {"count": 3, "number": number}
        train, val = (open_split(tmp_path, split, fold=fold, group="[^_]+").sample_ids for split in ("train", "val"))
        assert not {name[0] for name in train} & {name[0] for name in val}
        held_out += val
    assert sorted(held_out) == names
    with pytest.raises(DataError, match="4 groups or samples for 5 folds"):
        open_split(tmp_path, fold={"count": 5, "number": 0}, group="[^_]+")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_folder": "all"}, r"data: image_folder: 'all' gives train and val the same images"),
        ({"splits": {"train": "x", "val": "x"}}, "splits: .* gives train and val the same images"),
        ({"fold": {"count": 3, "number": 3}}, r"data\.fold: number 3; expected 0 to 2"),
    ],
)
def test_splits_with_the_same_images_are_refused(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        open_split(tmp_path, **settings)


def test_a_data_set_that_finds_its_own_files_refuses_the_keys_it_does_not_read(tmp_path):
    class Own(Folder):
        def find_images(self):
            return {}

        def find_labels(self):
            return {}

    write_pairs(tmp_path, "a")
    assert open_split(tmp_path, dataset=Own, recursive=True).sample_ids == []
    for key, value in (("recursive", False), ("label_suffix", "_gt"), ("splits", {"val": "v"})):
        with pytest.raises(ConfigError, match=rf"data\.{key}: data set 'x' finds its files itself"):
            open_split(tmp_path, dataset=Own, **{key: value})


# ---- messages about other files ----


@pytest.mark.parametrize(
    ("file", "dataset", "message"),
    [
        ("images/train/all.zip", Folder, r"found 1 \.zip such as all\.zip: unpack the archive"),
        ("images/train/0.parquet", Folder, "the images are inside of it; export them"),
        (
            "images/training/a.png",
            ADE20K,
            r"found 1 \.png such as a\.png: data\.image_suffix says how",
        ),
        (
            "leftImg8bit/train/u/u_0_leftImg8bit.jpg",
            Cityscapes,
            r"found 1 \.jpg such as u_0.*: data\.image_suffix",
        ),
    ],
)
def test_other_files_are_named_with_what_to_do(tmp_path, file, dataset, message):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    (tmp_path / "classes.tsv").write_text(CLASSES)
    with pytest.raises(DataError, match=message) as caught:
        open_split(tmp_path, dataset=dataset)
    assert "\n" not in str(caught.value)


def test_jpeg_labels_are_refused_with_the_reason(tmp_path):
    write_pairs(tmp_path, "a")
    (tmp_path / "labels/train/a.png").rename(tmp_path / "labels/train/a.jpg")
    with pytest.raises(DataError, match=r"found 1 \.jpg such as a\.jpg: JPEG changes the ids"):
        open_split(tmp_path)
    Image.new("L", (11, 7)).save(tmp_path / "labels/train/a.png", format="JPEG")
    with pytest.raises(DataError, match=r"a\.png: a label as JPEG, which may change the values"):
        open_split(tmp_path).read(0)


# ---- label maps ----


def test_a_label_map_replaces_the_classes_of_every_data_set(tmp_path):
    write_pairs(tmp_path, "a")
    write_label(tmp_path / "labels/train/a.png", 255)
    data = open_split(tmp_path, label_map={"background": [0], "road": [1, 255]})
    assert (data.table.names, data.read(0).label[0, 0]) == (("background", "road"), 1)
    (tmp_path / "classes.tsv").unlink()
    assert open_split(tmp_path, label_map={"background": [0], "road": [255]}, ignore_ids=[9]).read(0).label[0, 0] == 1
    write_image(tmp_path / "labels/train/a.png", 128)
    colours = {"background": ["#000000"], "road": [[128, 128, 128]]}
    assert open_split(tmp_path, label_map=colours).read(0).label[0, 0] == 1
    write_image(tmp_path / "images/training/ADE_1.jpg")
    write_label(tmp_path / "annotations/training/ADE_1.png", 2)
    two = {"building": ["building, edifice"], "wall": ["wall"], "ignore": "rest"}
    assert open_split(tmp_path, dataset=ADE20K, label_map=two).read(0).label[0, 0] == 0


def test_another_label_map_is_other_content(tmp_path):
    write_pairs(tmp_path, "a")
    maps = (None, {"a": [0], "b": [1]}, {"a": [0], "b": [1, 2]})
    assert len({content_digest(open_split(tmp_path, label_map=label_map)) for label_map in maps}) == 3


def test_a_list_may_name_samples_with_odd_spaces(tmp_path):
    names = [" a", "b ", "c\u2028d", "e\x0cf"]
    write_pairs(tmp_path, *names)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.txt").write_text("\r\n".join(names) + "\n", encoding="utf-8")
    assert {*open_split(tmp_path, samples="lists/{split}.txt").sample_ids} == {*names}
