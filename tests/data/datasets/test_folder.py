import numpy as np
import pytest
from PIL import Image

from segnl.core.config import validate
from segnl.core.errors import ConfigError, DataError
from segnl.data.datasets.folder import Folder, FolderConfig


def test_a_pair_is_read_with_its_label_as_train_ids(make_folder, tmp_path):
    data = make_folder(2)
    sample = data.read(1)
    raw = np.asarray(Image.open(tmp_path / "labels/train/street_1.png"))
    assert (len(data), data.sample_ids, sample.id) == (2, ["street_0", "street_1"], "street_1")
    assert sample.image.shape == (13, 17, 3)
    np.testing.assert_array_equal(sample.label, np.where(raw == 9, 255, raw))


def test_an_unknown_id_in_a_file_names_the_file(make_folder, tmp_path):
    data = make_folder(1)
    label = np.zeros((13, 17), np.uint8)
    label[12, 3] = 19
    Image.fromarray(label).save(data.label_path(0))
    with pytest.raises(
        DataError, match=r"street_0\.png: pixel \(row 12, column 3\) holds 19, but .* 0\.\.2 \(and 9, 255, ignored\)"
    ):
        data.read(0)


def test_a_label_of_another_size_is_refused_naming_both_sizes(make_folder):
    data = make_folder(1)
    Image.fromarray(np.zeros((17, 13), np.uint8)).save(data.label_path(0))
    with pytest.raises(DataError, match=r"label of 17x13 pixels, but street_0\.png has 13x17; export the label"):
        data.read(0)


def test_a_rotated_label_beside_an_orientation_tag_gets_the_reason(make_folder):
    data = make_folder(1)
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.open(data.image_path(0)).save(data.image_path(0), exif=tag)
    Image.fromarray(np.zeros((17, 13), np.uint8)).save(data.label_path(0))
    with pytest.raises(DataError, match="EXIF orientation 6, which is not applied"):
        data.read(0)


def test_an_image_without_label_and_the_reverse_are_named_and_counted(make_folder):
    data = make_folder(4)
    data.label_path(1).unlink()
    data.label_path(2).unlink()
    data.image_path(3).unlink()
    with pytest.raises(DataError, match=r"images/train/street_1\.png: no label .*labels/train/street_1\.png .2 more"):
        Folder(data.cfg, "train")
    data.label_path(3).unlink()
    data.image_path(1).unlink()
    data.image_path(2).unlink()
    assert len(Folder(data.cfg, "train")) == 1


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("", "no such folder; set data.root"),
        ("classes.tsv", "cannot be read"),
        ("labels", "labels: no such folder; data.root must be the folder that holds labels/"),
        ("images/train", "images: no split 'train'; it has none"),
        ("images/train/street_0.png", "train: no image files; expected"),
        ("labels/train/street_0.png", "train: no label files; expected"),
    ],
)
def test_what_is_missing_is_named_in_one_line(make_folder, tmp_path, remove, message):
    cfg = make_folder(1).cfg
    (tmp_path / remove).rename(tmp_path.parent / f"{tmp_path.name}-moved")
    with pytest.raises(DataError, match=message) as caught:
        Folder(cfg, "train")
    assert "\n" not in str(caught.value)


def test_an_unknown_split_lists_the_splits(make_folder):
    with pytest.raises(DataError, match="images: no split 'vall'; it has train"):
        Folder(make_folder(1).cfg, "vall")


def test_hidden_files_are_no_images_and_two_files_of_one_stem_are_refused(make_folder, tmp_path):
    data = make_folder(1)
    (tmp_path / "images/train/._street_0.png").write_bytes(b"mac")
    assert len(Folder(data.cfg, "train")) == 1
    (tmp_path / "images/train/street_0.jpg").touch()
    with pytest.raises(DataError, match=r"street_0\.jpg has the same stem"):
        Folder(data.cfg, "train")


@pytest.mark.parametrize("scale", [[2.0, 0.5], [0.0, 1.0]])
def test_a_scale_range_must_be_ordered_and_above_zero(scale):
    mapping = {"name": "folder", "root": "x", "crop_hw": [7, 11], "scale": scale}
    with pytest.raises(ConfigError, match=r"data\.scale"):
        validate(FolderConfig, mapping, file="recipe", at="data")


def test_camvid_has_its_pairs_and_only_its_ids(shared):
    cfg = FolderConfig(name="folder", root=shared / "data/camvid", crop_hw=(7, 11), ignore_ids=(11,))
    train, val = Folder(cfg, "train"), Folder(cfg, "val")
    assert (len(train), len(val), train.table.num_classes) == (367, 101, 11)
    assert not set(train.sample_ids) & set(val.sample_ids)
    seen = set()
    for i in range(0, 101, 25):
        sample = val.read(i)
        assert sample.image.shape == (360, 480, 3)
        seen |= set(np.unique(sample.label).tolist())
    assert seen == {*range(11), 255}
    without_void = Folder(cfg.model_copy(update={"ignore_ids": ()}), "val")
    with pytest.raises(DataError, match=r"holds 11, but camvid has ids 0\.\.10 \(and 255, ignored\)"):
        [without_void.read(i) for i in range(3)]
