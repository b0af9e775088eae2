"""The probe as a data set: no files, and settings that are part of its digest."""

from pathlib import Path

import numpy as np
import pytest

from segnl.core.config import validate
from segnl.core.errors import ConfigError, DataError
from segnl.data.check import check
from segnl.data.datasets.probe import Probe, ProbeConfig
from segnl.data.digest import content_digest
from segnl.data.transforms import TrainTransform
from segnl.testing import check_dataset

SMALL = {"name": "probe", "crop_hw": [28, 44], "num_train": 12, "num_val": 5}


def probe(split: str = "val", **settings: object) -> Probe:
    return Probe(validate(ProbeConfig, SMALL | settings, file="a test"), split)


@pytest.mark.parametrize("task", ["reach", "association", "counting"])
def test_it_fulfils_the_contract_of_data_sets(task: str, tmp_path: Path) -> None:
    check_dataset("probe", tmp_path, "train", **{key: SMALL[key] for key in SMALL if key != "name"}, task=task)


def test_splits_have_their_own_images() -> None:
    train, val = probe("train"), probe("val")
    assert (len(train), len(val)) == (12, 5)
    assert not np.array_equal(train.read(0).image, val.read(0).image)
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        probe("test")


@pytest.mark.parametrize(
    "change", [{"task": "counting"}, {"data_seed": 1}, {"num_targets": 7}, {"crop_hw": [44, 28]}, {"num_val": 6}]
)
def test_the_digest_depends_on_the_settings(change: dict[str, object]) -> None:
    assert content_digest(probe()) == content_digest(probe())
    assert content_digest(probe(**change)) != content_digest(probe())


def test_a_crop_is_the_whole_image_unchanged() -> None:
    data = probe("train")
    sample = data.read(0)
    crop = TrainTransform(data.cfg, (0, 0, 0), seed=3)(sample, epoch=1, index=0)
    assert np.array_equal(crop.image, sample.image)
    assert np.array_equal(crop.label, sample.label)


def test_a_grid_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a multiple of cell_px 4"):
        probe(crop_hw=[30, 44])
    with pytest.raises(ConfigError, match="too small for 40 targets"):
        probe(num_targets=40)


def test_check_reads_images_that_are_no_files() -> None:
    report = check(probe())
    assert not report.errors
    assert report.num_pairs == 5
    assert sum(report.pixels_per_class.values()) == 5 * 8 * 16
