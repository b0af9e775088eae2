import multiprocessing
import os
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnl.api import open_dataset
from segnl.core.errors import ConfigError, DataError, MachineError
from segnl.core.run_log import read_log
from segnl.data.base import SegmentationData
from segnl.data.cache import _HEADER, cache_samples
from segnl.data.datasets.folder import Folder
from segnl.runs.recipe import load_recipe
from segnl.training.fit import fit

GB = 1e-9  # cache_limit_gb counts in these: 5 * GB is five bytes


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "segnl"


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """The samples that were decoded from their files."""
    indices = []
    decode = SegmentationData.decode
    monkeypatch.setattr(SegmentationData, "decode", lambda data, i: indices.append(i) or decode(data, i))
    return indices


def assert_reads_its_files(data: SegmentationData) -> None:
    for i in range(len(data)):
        sample, expected = data.read(i), data.decode(i)
        assert sample.id == expected.id
        assert (sample.image.dtype, sample.label.dtype) == (np.uint8, np.uint8)
        np.testing.assert_array_equal(sample.image, expected.image)
        np.testing.assert_array_equal(sample.label, expected.label)


def num_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def test_a_sample_under_another_s_name_or_of_another_shape_is_decoded_again(make_folder, folder):
    data = make_folder(3, cache="disk")
    cache_samples([data])
    first, second, third = sorted(folder.glob("*.sample"))
    content = first.read_bytes(), second.read_bytes()
    first.write_bytes(content[1])
    second.write_bytes(content[0])
    magic, checksum, rows, columns, bands = _HEADER.unpack(third.read_bytes()[: _HEADER.size])
    turned = _HEADER.pack(magic, checksum, columns, rows, bands)
    third.write_bytes(turned + third.read_bytes()[_HEADER.size :])
    data = make_folder(3, cache="disk")
    cache_samples([data])
    assert_reads_its_files(data)


@pytest.mark.parametrize("cache", ["disk", "ram"])
def test_stored_samples_are_the_decoded_ones_and_are_decoded_once(make_folder, folder, decoded, cache):
    data = make_folder(5, cache=cache)
    cache_samples([data])
    assert sorted(decoded) == [0, 1, 2, 3, 4]
    for _ in range(2):
        for i in range(5):
            data.read(i)
    assert len(decoded) == 5
    assert_reads_its_files(data)
    assert folder.exists() == (cache == "disk")


def test_the_next_start_decodes_nothing(make_folder, folder, decoded):
    cache_samples([make_folder(5, cache="disk")])
    decoded.clear()
    data = make_folder(5, cache="disk")
    cache_samples([data])
    data.read(3)
    assert decoded == []


def test_none_stores_nothing(make_folder, folder):
    data = make_folder(2)
    cache_samples([data])
    assert data.stored is None
    assert not folder.exists()


def test_four_bands_are_stored(make_folder, folder, tmp_path):
    make_folder(2)
    for i in range(2):
        bands = np.random.default_rng(i).integers(0, 256, (13, 17, 4), dtype=np.uint8)
        Image.fromarray(bands, "RGBA").save(tmp_path / f"images/train/street_{i}.png")
    data = make_folder_again(tmp_path, num_bands=4)
    cache_samples([data])
    assert data.read(0).image.shape == (13, 17, 4)
    assert_reads_its_files(data)


def make_folder_again(root: Path, num_bands: int = 3, **settings: object) -> Folder:
    mapping = {"name": "folder", "root": root, "crop_hw": (7, 11), "ignore_ids": (9,), "cache": "disk", **settings}
    return Folder(Folder.Config.model_validate(mapping), "train", num_bands=num_bands)


def test_16_bits_in_another_range_or_with_other_classes_are_another_sample(make_folder, folder, tmp_path):
    make_folder(1)
    values = np.arange(221, dtype=np.uint16).reshape(13, 17) * 18
    Image.fromarray(values).save(tmp_path / "images/train/street_0.png")
    for settings in ({"value_range": (0.0, 4095.0)}, {"value_range": (0.0, 9000.0)}):
        data = make_folder_again(tmp_path, **settings)
        cache_samples([data])
        assert_reads_its_files(data)
    (tmp_path / "classes.tsv").write_text("index\tname\tr\tg\tb\n2\ta\t1\t2\t3\n1\tb\t4\t5\t6\n0\tc\t7\t8\t9\n")
    data = make_folder_again(tmp_path, value_range=(0.0, 9000.0))
    cache_samples([data])
    assert_reads_its_files(data)
    assert len(list(folder.glob("*.sample"))) == 3


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_file_changed_at_equal_size_and_time_is_decoded_again(make_folder, folder, tmp_path, kind):
    make_folder(3)
    for i in range(3):  # uncompressed, so that another value leaves the size
        for name in ("images", "labels"):
            path = tmp_path / name / "train" / f"street_{i}.png"
            Image.open(path).save(path.with_suffix(".bmp"))
            path.unlink()
    data = make_folder_again(tmp_path)
    cache_samples([data])
    path = tmp_path / kind / "train" / "street_1.bmp"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] = 1 if content[-20] != 1 else 2
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    data = make_folder_again(tmp_path)
    cache_samples([data])
    assert_reads_its_files(data)


@pytest.mark.parametrize(("cache", "limit"), [("disk", 14_000), ("ram", 10_000)])  # 4096 bytes a file
def test_the_cache_is_not_larger_than_asked_and_the_rest_is_decoded(make_folder, folder, decoded, caplog, cache, limit):
    data = make_folder(5, cache=cache, cache_limit_gb=limit * GB)
    cache_samples([data])
    assert len(decoded) <= 4  # two that fit, and at most as many threads as were at work
    assert num_bytes(folder) <= limit
    assert "2 of 5 samples" in caplog.text
    assert "3 are decoded at each reading" in caplog.text
    assert_reads_its_files(data)


def test_other_data_sets_count_and_files_that_are_not_its_own_stay(make_folder, folder, tmp_path):
    cache_samples([make_folder(2, cache="disk")])
    (folder / "notes.txt").write_text("mine")
    shutil.rmtree(tmp_path / "images"), shutil.rmtree(tmp_path / "labels")
    data = make_folder(3, hw=(11, 19), cache="disk", cache_limit_gb=20_480 * GB)  # 4096 bytes for each file
    cache_samples([data])
    assert len(list(folder.glob("*.sample"))) == 3
    assert (folder / "notes.txt").read_text() == "mine"
    assert_reads_its_files(data)


def with_huge_sides(data: bytes) -> bytes:
    return data[:12] + b"\xff" * 12 + data[24:]  # rows, columns, bands


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:-1] + b"\7", lambda data: b"", with_huge_sides]
)
def test_a_damaged_file_of_the_cache_is_not_read(make_folder, folder, decoded, damage):
    cache_samples([make_folder(2, cache="disk")])
    for path in folder.glob("*.sample"):
        path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        data = make_folder(2, cache="disk")
        cache_samples([data])
        assert_reads_its_files(data)
    decoded.clear()
    data = make_folder(2, cache="disk")
    cache_samples([data])
    data.read(0), data.read(1)
    assert decoded == []  # the second start has stored them again


def test_a_pipe_in_place_of_a_sample_is_replaced_and_a_folder_named(make_folder, folder):
    cache_samples([make_folder(2, cache="disk")])
    first, second = sorted(folder.glob("*.sample"))
    first.unlink()
    os.mkfifo(first)
    data = make_folder(2, cache="disk")
    cache_samples([data])
    assert_reads_its_files(data)
    assert first.is_file()
    second.unlink()
    second.mkdir()
    with pytest.raises(MachineError, match=r"sample: cannot be written \(Is a directory\); move that folder aside$"):
        cache_samples([make_folder(2, cache="disk")])


def test_a_cache_deleted_in_the_middle_of_a_training_is_no_error(make_folder, folder):
    data = make_folder(2, cache="disk")
    cache_samples([data])
    shutil.rmtree(folder)
    assert_reads_its_files(data)


def test_a_transform_that_changes_its_input_does_not_change_the_cache(make_folder, folder):
    data = make_folder(1, cache="disk")
    cache_samples([data])
    data.read(0).image[:] = 0
    assert_reads_its_files(data)


def test_a_file_that_changes_while_it_is_decoded_is_not_stored(make_folder, folder, monkeypatch, tmp_path):
    data = make_folder(1, cache="disk")
    decode = SegmentationData.decode

    def decode_a_changing_file(data: SegmentationData, i: int):
        sample = decode(data, i)
        Image.fromarray(np.zeros((13, 17, 3), np.uint8)).save(tmp_path / "images/train/street_0.png")
        return sample

    monkeypatch.setattr(SegmentationData, "decode", decode_a_changing_file)
    cache_samples([data])
    assert list(folder.glob("*.sample")) == []


def test_generated_images_are_refused(tmp_path, folder):
    with pytest.raises(ConfigError, match="data set 'probe' has no files"):
        open_dataset("probe", tmp_path, cache="disk", crop_hw=[64, 64])


def test_a_damaged_image_is_named(make_folder, folder, tmp_path):
    data = make_folder(2, cache="disk")
    path = tmp_path / "images/train/street_1.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"street_1\.png: cannot be decoded"):
        cache_samples([data])


def test_killed_while_it_is_made_and_made_by_two_at_once_it_is_whole(make_folder, folder):
    data = make_folder(40, hw=(301, 401), cache="disk")
    fork = multiprocessing.get_context("fork")  # torch is imported already
    process = fork.Process(target=cache_samples, args=([data],))
    process.start()
    while len(list(folder.glob("*.sample"))) < 3 and process.is_alive():
        time.sleep(0.001)
    process.kill()
    process.join()
    num_made = len(list(folder.glob("*.sample")))
    (folder / ".0123.sample.segnl-0123abcd").write_bytes(b"half")  # as a killed writer leaves it
    processes = [fork.Process(target=cache_samples, args=([data],)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert 3 <= num_made < 40
    assert len(list(folder.glob("*.sample"))) == 40
    assert sorted(path.name for path in folder.glob(".*")) == [".lock"]
    cache_samples([data])
    assert_reads_its_files(data)


def test_a_full_disk_is_one_line(make_folder, folder):
    data = make_folder(2, hw=(301, 401), cache="disk")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(MachineError, match=r"data\.cache: .*lower data\.cache_limit_gb, or set XDG") as caught:
            cache_samples([data])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_five_steps_and_a_validation_are_equal_to_the_bit(tiny_config, tmp_path, folder):
    logs = []
    for cache in ("none", "disk", "disk", "ram"):
        keys = [f"data.cache={cache}", "data.workers=2", "train.max_steps=5", "train.eval_every=5"]
        recipe = load_recipe(tiny_config, keys)
        run = tmp_path / f"run{len(logs)}"
        fit(recipe, run)
        lines = read_log(run / "log.jsonl")
        steps = [(line["step"], line["loss"], line["batch"]) for line in lines if "batch" in line]
        metrics = [line["miou"] for line in lines if "miou" in line]
        assert len(steps) == 5
        assert metrics
        logs.append((steps, metrics))
    assert all(log == logs[0] for log in logs)
