import shutil

import pytest

from segnl.data.digest import files_digest
from segnl.runs.build import build_data
from segnl.runs.recipe import load_recipe


@pytest.fixture
def digest(tiny_config):
    return lambda *overrides: files_digest(build_data(load_recipe(tiny_config, overrides), "val"))


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
