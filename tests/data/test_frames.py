"""data.frames: which frames a network sees beside the labelled one, and that all get the same crop."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnl.core.config import validate
from segnl.core.errors import ConfigError, DataError
from segnl.data.base import DataConfig
from segnl.data.datasets.folder import Folder
from segnl.data.digest import content_digest, data_change, data_record, frames_digest
from segnl.data.find import DATASETS
from segnl.data.frames import _natural, frames_beside
from segnl.data.transforms import TrainTransform


def write_clips(root: Path, names: list[str], unlabelled: tuple[str, ...] = ()) -> Path:
    """Images whose grey level is their place in `names`, with labels of class 0 and 1."""
    random = np.random.default_rng(0)
    for level, name in enumerate(names):
        for kind in ("images", "labels"):
            (root / kind / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((21, 37, 3), level, np.uint8)).save(root / "images" / "train" / f"{name}.png")
        if name not in unlabelled:
            label = random.integers(0, 2, (21, 37), dtype=np.uint8)
            Image.fromarray(label).save(root / "labels" / "train" / f"{name}.png")
    (root / "classes.tsv").write_text("index\tname\tr\tg\tb\n0\troad\t1\t2\t3\n1\tsky\t4\t5\t6\n")
    return root


def open_clips(root: Path, **settings: object) -> Folder:
    mapping = {"name": "folder", "root": str(root), "crop_hw": [13, 17], "workers": 0, **settings}
    return Folder(validate(Folder.Config, mapping, file="test", at="data"), "train")


def levels(data: Folder) -> dict[str, list[int]]:
    """The grey level of each frame that belongs to a sample."""
    return {data.sample_ids[i]: data.read(i).image[0, 0, ::3].tolist() for i in range(len(data))}


def test_the_labelled_frame_comes_first_and_its_clip_ends_are_repeated(tmp_path):
    names = ["b/2", "b/10", "a/1", "a/2", "a/3"]  # levels 0 to 4; 2 comes before 10
    found = levels(open_clips(write_clips(tmp_path, names), frames=3))
    assert found == {"a/1": [2, 2, 3], "a/2": [3, 2, 4], "a/3": [4, 3, 4], "b/2": [0, 0, 1], "b/10": [1, 0, 1]}


def test_more_frames_than_the_clip_has_repeat_its_ends(tmp_path):
    assert levels(open_clips(write_clips(tmp_path, ["a/1", "a/2"]), frames=5)) == {
        "a/1": [0, 0, 0, 1, 1],
        "a/2": [1, 0, 0, 1, 1],
    }


def test_a_group_of_the_recipe_is_a_clip(tmp_path):
    data = open_clips(write_clips(tmp_path, ["x_1", "x_2", "y_1"]), frames=3, group="[a-z]+")
    assert levels(data) == {"x_1": [0, 0, 1], "x_2": [1, 0, 1], "y_1": [2, 2, 2]}


def test_folders_of_one_name_are_two_clips(tmp_path):
    root = write_clips(tmp_path, ["x/01/1", "x/01/2", "y/01/1"])
    expected = {"x/01/1": [0, 0, 1], "x/01/2": [1, 0, 1], "y/01/1": [2, 2, 2]}
    assert levels(open_clips(root, frames=3, group="folder")) == expected
    assert levels(open_clips(root, frames=3)) == expected


def test_an_image_without_label_is_a_neighbour_only(tmp_path):
    root = write_clips(tmp_path, ["a/1", "a/2", "a/3"], unlabelled=("a/1", "a/3"))
    assert levels(open_clips(root, frames=3)) == {"a/2": [1, 0, 2]}
    with pytest.raises(DataError, match="no label belongs to it"):
        open_clips(root)


def test_neighbours_of_a_sample_may_be_outside_of_its_list_and_its_fold(tmp_path):
    root = write_clips(tmp_path, ["a/1", "a/2", "a/3"])
    (root / "train.txt").write_text("a/2\n")
    assert levels(open_clips(root, frames=3, samples="{split}.txt")) == {"a/2": [1, 0, 2]}


def test_a_frame_of_another_size_is_named(tmp_path):
    root = write_clips(tmp_path, ["a/1", "a/2"])
    Image.fromarray(np.zeros((20, 37, 3), np.uint8)).save(root / "images/train/a/2.png")
    with pytest.raises(DataError, match=r"a/2.png: a frame of 20x37 pixels, but 1.png has 21x37"):
        open_clips(root, frames=3).read(0)


def test_settings_that_cannot_be_met_are_one_line(tmp_path):
    root = write_clips(tmp_path, ["a/1", "a/2"])
    with pytest.raises(ConfigError, match=r"data.frames: holds 2; expected an odd number"):
        open_clips(root, frames=2)
    with pytest.raises(ConfigError, match=r"data.group gives each image a group of its own; leave it at 1"):
        open_clips(root, frames=3, group="image")
    probe = DATASETS.find("probe")
    with pytest.raises(ConfigError, match=r"data set 'probe': has no files of frames"):
        probe(validate(probe.Config, {"name": "probe", "frames": 3}, file="test"), "train")


def test_the_digest_of_frames_notices_a_changed_neighbour_that_of_the_pairs_does_not(tmp_path):
    root = write_clips(tmp_path, ["a/1", "a/2"], unlabelled=("a/2",))
    before = open_clips(root, frames=3)
    digests, record = (content_digest(before), frames_digest(before)), data_record(before)
    Image.fromarray(np.full((21, 37, 3), 99, np.uint8)).save(root / "images/train/a/2.png")
    after = open_clips(root, frames=3)
    assert content_digest(after) == digests[0]
    assert frames_digest(after) != digests[1]
    assert data_change(record, data_record(after))


def test_all_frames_get_the_transforms_that_the_labelled_one_gets_alone(tmp_path):
    root = write_clips(tmp_path, ["a/1", "a/2", "a/3"])
    texture = np.random.default_rng(1).integers(0, 256, (21, 37, 3), dtype=np.uint8)
    for name in ("1", "2", "3"):
        Image.fromarray(texture).save(root / f"images/train/a/{name}.png")
    alone, clip = open_clips(root), open_clips(root, frames=3)
    flips = set()
    for epoch in range(8):
        crops = [TrainTransform(data.cfg, (124, 116, 104), seed=0)(data.read(1), epoch, 1) for data in (alone, clip)]
        assert crops[1].image.shape == (13, 17, 9)
        assert np.array_equal(crops[1].image, np.tile(crops[0].image, 3))
        assert np.array_equal(crops[1].label, crops[0].label)
        flips.add(crops[0].image.tobytes())
    assert len(flips) == 8


def test_the_clip_of_an_image_of_no_split_is_its_folder_or_its_group_there(tmp_path):
    names = ["x_10", "x_9", "y_1", "notes"]
    folder = write_clips(tmp_path, names) / "images" / "train"
    path = {name: folder / f"{name}.png" for name in names}
    in_group = frames_beside(path["x_9"], r"[a-z]+(?=_)", 3, lists=tmp_path)
    assert in_group == (path["x_9"], path["x_9"], path["x_10"])
    assert frames_beside(path["x_9"], None, 3, lists=tmp_path) == (path["x_9"], path["notes"], path["x_10"])
    assert frames_beside(path["notes"], "folder", 3, lists=tmp_path) == (path["notes"], path["notes"], path["x_9"])


@pytest.mark.parametrize("group", ["[^/]+", r"(drive\d)/", "groups.tsv"])
def test_a_group_of_names_with_folders_holds_in_a_folder(tmp_path, group):
    names = ["drive1/f1", "drive1/f2", "drive1/f3"]
    folder = write_clips(tmp_path, names) / "images" / "train" / "drive1"
    (tmp_path / "groups.tsv").write_text("".join(f"{name}\tdrive1\n" for name in names))
    frames = frames_beside(folder / "f2.png", group, 3, lists=tmp_path)
    assert [path.stem for path in frames] == ["f2", "f1", "f3"]


def test_labels_beside_the_frames_are_no_frames(tmp_path):
    names = ["a_1", "a_1_mask", "a_2", "a_2_mask", "a_3"]
    folder = write_clips(tmp_path, names) / "images" / "train"
    cfg = DataConfig(name="folder", root=tmp_path, crop_hw=(3, 3), label_suffix="_mask")
    frames = frames_beside(
        folder / "a_2.png", None, 3, lists=tmp_path, is_image=lambda name: Folder.is_image(cfg, name)
    )
    assert [path.stem for path in frames] == ["a_2", "a_1", "a_3"]
    assert not Folder.is_image(cfg.model_copy(update={"image_suffix": "_rgb"}), "a_1.png")


def test_a_name_of_5000_digits_is_sorted_too():
    assert sorted(["a10", "a9", "a" + "9" * 5000], key=_natural) == ["a9", "a10", "a" + "9" * 5000]
