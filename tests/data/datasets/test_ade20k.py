import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import DataError
from segnl.data.base import DataConfig
from segnl.data.datasets.ade20k import ADE20K, TABLE
from segnl.data.folder_layout import plan_folder


def config(root):
    return DataConfig(name="ade20k", root=root, crop_hw=(7, 11))


@pytest.mark.parametrize("split", ["val", "validation"])
def test_the_three_real_images_read(shared, split):
    data = ADE20K(config(shared / "data/ADEChallengeData2016"), split)
    assert data.sample_ids == [f"ADE_val_0000000{i}" for i in (1, 2, 3)]
    for i, hw in enumerate([(512, 683), (364, 500), (300, 400)]):
        sample = data.read(i)
        raw = np.asarray(Image.open(data.label_path(i)))
        assert sample.image.shape == (*hw, 3)
        np.testing.assert_array_equal(sample.label, raw - np.uint8(1))  # 0 wraps to 255, void


def test_a_split_that_is_not_there_lists_the_folders(shared):
    with pytest.raises(DataError, match="images: no split 'training'; it has validation"):
        ADE20K(config(shared / "data/ADEChallengeData2016"), "train")


def test_the_full_release_is_recognised(tmp_path):
    folder = tmp_path / "images/training/a/abbey"
    folder.mkdir(parents=True)
    (folder / "ADE_train_00000970_seg.png").touch()
    message = r"the full ADE20K; expected the release of 150 classes, ADEChallengeData2016\.zip"
    with pytest.raises(DataError, match=message):
        ADE20K(config(tmp_path), "train")
    with pytest.raises(DataError, match=message):
        plan_folder(tmp_path)
    (folder / "ADE_train_00000970_seg.png").unlink()
    (tmp_path / "index_ade20k.pkl").touch()
    with pytest.raises(DataError, match=message):
        ADE20K(config(tmp_path), "train")


def test_the_test_images_are_a_folder_called_testing_and_have_no_labels(tmp_path):
    (tmp_path / "images/testing").mkdir(parents=True)
    Image.fromarray(np.zeros((7, 11, 3), np.uint8)).save(tmp_path / "images/testing/ADE_test_00000001.jpg")
    with pytest.raises(DataError, match="annotations: no such folder"):
        ADE20K(config(tmp_path), "test")
    data = ADE20K(config(tmp_path), "test", needs_labels=False)
    assert data.sample_ids == ["ADE_test_00000001"]
    assert (data.read(0).label == 255).all()


def test_names_ids_and_colours_are_those_of_the_tsv(shared):
    lines = (shared / "data/ADEChallengeData2016/classes.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    assert TABLE.names == tuple(row[1] for row in rows)
    assert TABLE.file_ids == tuple(int(row[0]) for row in rows)
    assert TABLE.palette.tolist() == [[int(part) for part in row[2:]] for row in rows]


def test_file_ids_are_train_ids_plus_one_and_0_is_ignored():
    raw = np.arange(151, dtype=np.uint8)[None]
    train = TABLE.to_train(raw, "")
    assert train[0].tolist() == [255, *range(150)]
    assert TABLE.to_mask(train).tolist() == raw.tolist()


def test_151_is_refused_naming_pixel_value_and_known_ids():
    with pytest.raises(
        DataError, match=r"pixel \(row 0, column 1\) holds 151, but ade20k has ids 1\.\.150 \(and 0, ignored\)"
    ):
        TABLE.to_train(np.array([[150, 151]], np.uint8), "label ADE_val_00000007")
