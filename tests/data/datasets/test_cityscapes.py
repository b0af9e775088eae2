import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import DataError
from segnl.data.base import DataConfig
from segnl.data.datasets.cityscapes import Cityscapes

STEMS = ["aachen_000000_000019", "aachen_000001_000019", "ulm_000000_000007"]


@pytest.fixture
def cfg(tmp_path):
    for sample_id in STEMS:
        city = sample_id.split("_")[0]
        for mapping, end in (
            ("leftImg8bit", "leftImg8bit"),
            ("gtFine", "gtFine_labelIds"),
            ("gtFine", "gtFine_instanceIds"),
        ):
            path = tmp_path / mapping / "val" / city / f"{sample_id}_{end}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = (7, 11, 3) if mapping == "leftImg8bit" else (7, 11)
            Image.fromarray(np.full(shape, 7, np.uint8)).save(path)
    return DataConfig(name="cityscapes", root=tmp_path, crop_hw=(7, 11))


def test_the_official_layout_is_read_over_all_cities(cfg):
    data = Cityscapes(cfg, "val")
    assert data.sample_ids == STEMS
    assert (data.read(2).label == 0).all()  # label id 7 is road, train id 0
    assert data.instance_path(2).name == "ulm_000000_000007_gtFine_instanceIds.png"
    assert data.instance_path(2).is_file()


def test_a_missing_label_is_named_with_its_place(cfg):
    Cityscapes(cfg, "val").label_path(1).unlink()
    with pytest.raises(DataError, match=r"expected gtFine/val/aachen/aachen_000001_000019_gtFine_labelIds\.png"):
        Cityscapes(cfg, "val")


def test_train_id_files_alone_are_refused_by_name(cfg):
    for path in (cfg.root / "gtFine").rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    message = r"no label files; expected \*_gtFine_labelIds\.png; found 6 \.png .*; only labelIds .* never"
    with pytest.raises(DataError, match=message):
        Cityscapes(cfg, "val")


def test_an_empty_split_is_refused(cfg):
    (cfg.root / "leftImg8bit/train").mkdir()
    (cfg.root / "gtFine/train").mkdir()
    with pytest.raises(DataError, match=r"leftImg8bit/train: no image files; expected \*_leftImg8bit\.png"):
        Cityscapes(cfg, "train")


def test_a_split_without_any_label_is_read_only_where_none_is_needed(cfg):
    for path in (cfg.root / "gtFine").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="gtFine/val: no label files"):
        Cityscapes(cfg, "val")
    data = Cityscapes(cfg, "val", needs_labels=False)
    assert (data.sample_ids, data.has_labels) == (STEMS, False)
    assert data.read(1).label.shape == (7, 11)
    assert (data.read(1).label == 255).all()


def test_labels_that_are_there_are_read_and_must_be_complete(cfg):
    data = Cityscapes(cfg, "val", needs_labels=False)
    assert data.has_labels
    assert (data.read(0).label == 0).all()
    data.label_path(1).unlink()
    with pytest.raises(DataError, match="no label belongs to it"):
        Cityscapes(cfg, "val", needs_labels=False)
    for path in (cfg.root / "gtFine").rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    with pytest.raises(DataError, match="only labelIds as downloaded are read"):
        Cityscapes(cfg, "val", needs_labels=False)
