"""The data set as training and evaluation see it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import DataError
from segnl.data.datasets.streets import Streets, StreetsConfig
from segnl.data.find import DATASETS
from segnl.streets.files import MANIFEST, generate
from segnl.streets.pairs import PAIRS


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streets")
    generate(folder, num_train=4, num_val=3, hw=(64, 128))
    return folder


def config(root: Path) -> StreetsConfig:
    return StreetsConfig(name="streets", root=root, crop_hw=(64, 128))


def test_streets_is_found_by_name_and_its_parts_are_not():
    assert DATASETS.find("streets") is Streets


def test_a_split_yields_images_train_ids_and_the_ambiguous_pixels(root: Path):
    data = Streets(config(root), "val")
    assert len(data) == 3
    for index in range(3):
        sample, mask = data.read(index), data.ambiguous_mask(index)
        assert sample.image.shape == (64, 128, 3)
        assert mask.shape == sample.label.shape
        for number, pair in enumerate(PAIRS, start=1):
            names = {data.table.names[value] for value in np.unique(sample.label[mask == number])}
            assert names <= set(pair.classes)
        assert mask.any()


def test_a_set_that_was_broken_off_is_refused_with_the_command_that_goes_on(tmp_path: Path):
    generate(tmp_path, num_train=1, num_val=1, hw=(64, 128))
    manifest = tmp_path / MANIFEST
    manifest.write_text(manifest.read_text().replace("true", "false"))
    with pytest.raises(DataError, match="interrupted; run `segnl data streets"):
        Streets(config(tmp_path), "val")
    manifest.unlink()
    with pytest.raises(DataError, match=r"no streets\.json"):
        Streets(config(tmp_path), "val")


def test_a_missing_folder_names_the_command_that_makes_it(tmp_path: Path):
    with pytest.raises(DataError, match="segnl data streets"):
        Streets(config(tmp_path / "nowhere"), "val")


def test_a_mask_of_another_generator_is_refused(tmp_path: Path):
    generate(tmp_path, num_train=1, num_val=1, hw=(64, 128))
    data = Streets(config(tmp_path), "val")
    Image.fromarray(np.full((64, 128), 9, np.uint8)).save(data.ambiguous_path(0))
    with pytest.raises(DataError, match="holds 9, but there are 4 pairs"):
        data.ambiguous_mask(0)
