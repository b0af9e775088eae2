import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from segnl.data import digest as module
from segnl.data.digest import content_digest
from segnl.runs.build import build_data
from segnl.runs.recipe import load_recipe

plain = time.time_ns


@pytest.fixture
def digest(tiny_config):
    return lambda *overrides: content_digest(build_data(load_recipe(tiny_config, overrides), "val"))


def test_a_copy_elsewhere_is_the_same_data_set(digest, tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "copy", copy_function=shutil.copy)
    assert digest(f"data.root={tmp_path / 'copy'}") == digest()


def test_a_corrected_label_another_image_or_other_ids_are_another(digest, tiny_data):
    before = digest()
    label = tiny_data / "labels" / "val" / "frame0.png"
    whole = label.read_bytes()
    label.write_bytes(whole[::-1])  # as long as before
    assert digest() != before
    label.write_bytes(whole)
    assert digest() == before
    table = tiny_data / "classes.tsv"
    text = table.read_text()
    table.write_text(text.replace("2\ttree", "3\ttree"))
    assert digest() != before
    table.write_text(text)
    (tiny_data / "images" / "val" / "frame1.png").write_bytes(b"longer or shorter")
    assert digest() != before


@pytest.mark.parametrize("age_s", [0, 3600])
def test_an_image_changed_in_place_at_equal_size_and_time_is_noticed(digest, tiny_data, monkeypatch, age_s):
    """age_s: how long ago the file seems to have been written, so that both the memo and the first reading are used."""
    monkeypatch.setattr(module.time, "time_ns", lambda: plain() + age_s * 10**9)
    image = tiny_data / "images" / "val" / "frame0.bmp"
    image.with_suffix(".png").unlink()
    Image.fromarray(np.zeros((37, 53, 3), np.uint8)).save(image)
    before, status = digest(), image.stat()
    assert digest() == before
    time.sleep(0.02)  # longer than a tick of the file system's clock
    Image.fromarray(np.ones((37, 53, 3), np.uint8)).save(image)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (image.stat().st_size, image.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert digest() != before


def test_ids_that_are_ignored_are_part_of_the_content(digest):
    assert digest("data.ignore_ids=[9, 77]") != digest("data.ignore_ids=[9]")


def test_the_files_beside_a_street_s_label_are_part_of_the_content(street_runs, tmp_path):
    shutil.copytree(street_runs[0].parent / "streets", tmp_path / "streets")
    recipe = load_recipe(street_runs[0].parent / "fcn.yaml", [f"data.root={tmp_path / 'streets'}"])
    data = build_data(recipe, "val")
    digests = {content_digest(data)}
    for path in (data.ambiguous_path(0), data.instance_path(0)):
        path.write_bytes(path.read_bytes() + b"changed")
        digests.add(content_digest(data))
    assert len(digests) == 3
