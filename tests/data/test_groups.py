from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from segnl.core.errors import ConfigError, DataError
from segnl.data.base import DataConfig
from segnl.data.datasets.cityscapes import Cityscapes
from segnl.data.datasets.streets import Streets
from segnl.data.groups import image_groups, named_groups

IDS = ["0001TP_006690", "0001TP_006720", "0016E5_07959"]


def data(group, *, sample_ids=IDS, own=None, root=None):
    """The parts of a data set that decide on its groups."""
    images = [root / "images" / name.split("_")[0] / f"{name}.png" for name in sample_ids] if root else []
    cfg = DataConfig(name="x", root=Path("/x"), crop_hw=(3, 3), group=group)
    return SimpleNamespace(cfg=cfg, group=own, root=root, sample_ids=sample_ids, image_path=images.__getitem__)


def test_a_pattern_gives_the_start_of_the_name_or_its_parentheses():
    assert image_groups(data("[^_]+")) == ["0001TP", "0001TP", "0016E5"]
    assert image_groups(data(r"\w+_(\d)")) == ["0", "0", "0"]


def test_the_data_set_s_own_groups_hold_where_the_recipe_names_none():
    assert image_groups(data(None)) is None
    assert image_groups(data(None, own="[^_]+")) == ["0001TP", "0001TP", "0016E5"]
    assert image_groups(data("image", own="[^_]+")) is None


def test_cityscapes_images_are_grouped_by_sequence_and_streets_are_not():
    frames = ["frankfurt_000000_000294", "frankfurt_000001_000538", "frankfurt_000001_002646", "lindau_000000_000019"]
    groups = image_groups(data(None, sample_ids=frames, own=Cityscapes.group))
    assert groups == ["frankfurt_000000", "frankfurt_000001", "frankfurt_000001", "lindau_000000"]
    assert image_groups(data(None, sample_ids=frames, own=Streets.group)) is None
    assert image_groups(data(None, sample_ids=[*frames, "other"], own=Cityscapes.group)) is None


def test_a_pattern_that_a_name_does_not_match_is_one_line_with_the_name():
    with pytest.raises(ConfigError, match=r"data.group: '\[a-z\]\+' does not match the sample '0001TP_006690'"):
        image_groups(data("[a-z]+"))
    for pattern in ("(0001TP)|(0016E5)", "0001(TP)?|0016E5"):
        with pytest.raises(ConfigError, match=r"nothing of the sample '0016E5_07959' matches the first parentheses"):
            image_groups(data(pattern))
    with pytest.raises(ConfigError, match="nothing of the sample '0001TP_006690' matches ''"):
        image_groups(data(""))
    with pytest.raises(ConfigError, match="--group: no name has a folder, such as 'a'"):
        named_groups("folder", ["a", "b"], lists=Path(), key="--group")
    for pattern in ("[a", "a{99999999999}", "(" * 5000 + ")" * 5000):
        with pytest.raises(ValidationError, match="is no regular expression"):
            data(pattern)


def test_a_folder_is_a_group(tmp_path):
    folders = image_groups(data("folder", root=tmp_path))
    assert folders[0] == folders[1] != folders[2]
    images = {name: tmp_path / f"{name}.png" for name in ("site1/cam1/a", "site1/cam1/b", "site2/cam1/a")}
    folders = image_groups(data("folder", root=tmp_path), images)
    assert folders == ["site1/cam1", "site1/cam1", "site2/cam1"]


def test_a_list_names_the_group_of_each_sample(tmp_path):
    (tmp_path / "groups.tsv").write_text("0001TP_006690\tday\n\n0001TP_006720, day\n0016E5_07959 night drive\n")
    assert image_groups(data("groups.tsv", root=tmp_path)) == ["day", "day", "night drive"]
    (tmp_path / "groups.tsv").write_text("0001TP_006690\tday\n")
    with pytest.raises(DataError, match=r"groups.tsv: no line for the sample '0001TP_006720'"):
        image_groups(data("groups.tsv", root=tmp_path))
    (tmp_path / "groups.tsv").write_text("0001TP_006690\tday\n0001TP_006690\tnight\n")
    with pytest.raises(DataError, match=r"line 2 is '0001TP_006690\tnight'; expected a sample and its group"):
        image_groups(data("groups.tsv", root=tmp_path))
    with pytest.raises(DataError, match=r"none.tsv: cannot be read \(No such file or directory\)"):
        image_groups(data("none.tsv", root=tmp_path))
