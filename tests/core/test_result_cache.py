import json
import os

import numpy as np
import pytest

from segnl.core.result_cache import Record, ResultCache, has_form, read_record, write_record


def deep(levels):
    return [] if levels == 0 else [deep(levels - 1)]


KEY = {"weights": "abc", "eval": {"flip": True, "scales": (0.5, 1.0)}}


@pytest.fixture
def cache(tmp_path):
    return ResultCache(tmp_path / "cache")


def load(cache, name, key):
    return cache.load(name, key, is_valid=lambda _: True)


def stored(cache, key=KEY):
    cache.store("counts", Record(key, {"miou": 0.5, "none": None}, {"pixels": np.arange(12).reshape(3, 4)}))
    return cache.path("counts", key)


def test_a_result_comes_back_with_its_key_its_value_and_its_arrays(cache):
    stored(cache)
    record = load(cache, "counts", KEY)
    assert record.value == {"miou": 0.5, "none": None}
    assert np.array_equal(record.arrays["pixels"], np.arange(12).reshape(3, 4))
    assert record.key == json.loads(json.dumps(KEY))


def test_a_result_without_arrays_is_one_file(cache):
    cache.store("width", Record(KEY, 8))
    assert load(cache, "width", KEY).value == 8
    assert [path.suffix for path in cache.folder.iterdir()] == [".json"]


def test_the_order_of_a_keys_words_does_not_matter_and_every_value_does(cache):
    stored(cache)
    assert load(cache, "counts", dict(reversed(KEY.items()))) is not None
    assert load(cache, "counts", KEY | {"weights": "abd"}) is None
    assert load(cache, "counts", KEY | {"eval": {"flip": True, "scales": [0.5, 1.5]}}) is None
    assert load(cache, "other", KEY) is None


def test_results_with_other_keys_lie_side_by_side(cache):
    stored(cache)
    stored(cache, KEY | {"weights": "abd"})
    assert load(cache, "counts", KEY) is not None
    assert load(cache, "counts", KEY | {"weights": "abd"}) is not None


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize("damage", ["missing", "cut off", "one bit", "empty", "of another program"])
def test_a_damaged_or_foreign_entry_does_not_count_and_is_not_deleted(cache, suffix, damage):
    path = stored(cache).with_suffix(suffix)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    changed = {"cut off": content[:-9], "one bit": bytes(flipped), "empty": b"", "of another program": b'{"a": 1}'}
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    assert load(cache, "counts", KEY) is None
    assert path.exists() == (damage != "missing")
    stored(cache)
    assert load(cache, "counts", KEY) is not None


def test_an_entry_under_anothers_name_does_not_count(cache):
    stored(cache).rename(cache.path("counts", {"weights": "other"}))
    assert load(cache, "counts", {"weights": "other"}) is None


def test_other_files_in_the_folder_stay(cache):
    cache.folder.mkdir()
    (cache.folder / "notes.txt").write_text("mine")
    stored(cache)
    stored(cache)
    assert (cache.folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b"{}", b'{"checksum": 1}', b"\xff"])
def test_a_file_that_is_no_record_reads_as_none(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    assert read_record(tmp_path / "record.json") is None


def test_a_record_that_is_half_written_does_not_count(tmp_path, monkeypatch):
    from segnl.core import result_cache as module

    plain = module.write_atomic

    def killed_before_the_last_file(path, data):
        if path.suffix == ".json":
            raise KeyboardInterrupt
        plain(path, data)

    monkeypatch.setattr(module, "write_atomic", killed_before_the_last_file)
    with pytest.raises(KeyboardInterrupt):
        write_record(tmp_path / "record.json", Record(KEY, 1, {"pixels": np.zeros(2)}))
    assert (tmp_path / "record.npz").exists()
    assert read_record(tmp_path / "record.json") is None


def test_a_stored_value_of_another_type_is_computed_again(cache):
    key = {"a": 1}
    assert cache.value("n", key, tuple[int, float], lambda: (3, 0.5)) == (3, 0.5)
    assert cache.value("n", key, tuple[int, float], lambda: (4, 0.5)) == (3, 0.5)
    for foreign in (None, [3], {"a": 2}, ["x", 0.5], [3, "0.5"]):
        cache.store("n", Record(key, foreign))
        assert cache.value("n", key, tuple[int, float], lambda: (4, 0.5)) == (4, 0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**16, -(10**400), [[{"a": 1e300}]], deep(900)])
def test_a_value_with_numbers_that_cannot_be_does_not_count(cache, value):
    cache.store("n", Record({"a": 1}, value))
    assert cache.load("n", {"a": 1}, is_valid=lambda _: True) is None


def test_a_form_is_keys_lengths_texts_and_numbers():
    form = {"a": [0, None], "b": "x"}
    assert all(has_form({"a": [5.5, own], "b": "x"}, form) for own in (None, 3))
    others = ({}, {"a": [0, 0]}, {"a": [0], "b": "x"}, {"a": [None, 0], "b": "x"}, {"a": [0, "y"], "b": "x"}, [0, 0], 5)
    assert not any(has_form(other, form) for other in (*others, {"a": [0, {}], "b": "x"}, {"a": [0, 0], "b": "y"}))


def test_a_check_that_fails_on_a_value_says_that_it_does_not_count(cache):
    cache.store("n", Record({"a": 1}, 5))
    assert cache.load("n", {"a": 1}, is_valid=lambda record: record.value["b"] == 1) is None
    assert cache.load("n", {"a": 1}, is_valid=lambda record: record.value == 5) is not None


def test_what_a_killed_write_left_is_deleted_by_a_later_one_and_nothing_else(tmp_path):
    cache = ResultCache(tmp_path)
    for name in (".x.json.segnl-01234567", ".x.json.segnl-76543210", "mine.json"):
        (tmp_path / name).touch()
    for name in (".x.json.segnl-01234567", "mine.json"):
        os.utime(tmp_path / name, (0, 0))
    cache.store("a", Record({"b": 1}, 2))
    assert {".x.json.segnl-76543210", "mine.json"} == {path.name for path in tmp_path.iterdir()} - {
        cache.path("a", {"b": 1}).name
    }
