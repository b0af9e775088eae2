import pytest
from pydantic import ValidationError

from segnl.core.errors import ConfigError, DataError
from segnl.data.base import DataConfig
from segnl.data.datasets.folder import Folder
from segnl.data.layout import files_by_id, split_folder


def test_a_range_of_scales_is_in_order():
    with pytest.raises(ValidationError, match=r"expected \[smallest, largest\]"):
        DataConfig(name="x", root="/x", crop_hw=(3, 3), scale=(2.0, 1.0))


@pytest.mark.parametrize("split", ["", ".", "..", "val/", "val/../val", "../../x"])
def test_a_split_is_a_plain_name(tiny_data, split):
    cfg = Folder.Config(name="folder", root=tiny_data, crop_hw=(33, 41), ignore_ids=(9,))
    with pytest.raises(ConfigError, match="expected a plain name, such as val"):
        Folder(cfg, split)


def test_a_missing_split_lists_those_that_are_there(tmp_path):
    for name in ("val", "train"):
        (tmp_path / "images" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        split_folder(tmp_path / "images/test")


def test_hidden_files_and_other_kinds_are_passed_over(tmp_path):
    for name in ("a.png", "b.JPG", "._a.png", "notes.txt"):
        (tmp_path / name).touch()
    assert sorted(files_by_id(tmp_path, (".png", ".jpg"), kind="image")) == ["a", "b"]


def test_two_files_of_one_stem_are_refused(tmp_path):
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"a\.jpg has the same stem"):
        files_by_id(tmp_path, (".png", ".jpg"), kind="image")
