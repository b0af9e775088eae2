import os
from pathlib import Path

import pytest

from segnl.core.errors import DataError
from segnl.core.find_files import find_files, name_text


def names(folder: Path, **settings: bool) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_files(folder, **settings)]


def write(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


def test_files_come_in_the_order_of_their_names_and_hidden_ones_are_left_out(tmp_path):
    write(tmp_path, "b.png", "a.png", "._a.png", ".cache/x.png", "aa/z.png", "aa/deep/y.png")
    assert names(tmp_path) == ["a.png", "b.png", "aa/z.png", "aa/deep/y.png"]
    assert names(tmp_path, recursive=False) == ["a.png", "b.png"]


def test_links_are_followed_and_one_that_leads_back_ends_there(tmp_path):
    write(tmp_path, "here/a.png", "elsewhere/ulm/b.png")
    (tmp_path / "here/ulm").symlink_to(tmp_path / "elsewhere/ulm")
    (tmp_path / "here/again").symlink_to(tmp_path / "here")
    (tmp_path / "elsewhere/ulm/up").symlink_to(tmp_path / "here")
    assert names(tmp_path / "here") == ["a.png", "ulm/b.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: cannot be read \(No such file or directory\)"):
        names(tmp_path / "nowhere")


def test_composed_and_decomposed_names_are_one_text_and_other_bytes_are_written_out():
    assert name_text("Zu\u0308rich") == name_text("Z\u00fcrich") == "Z\u00fcrich"
    assert name_text(os.fsdecode(b"Stra\xdfe")) == "Stra\\xdfe"


def test_a_link_to_itself_is_a_file_for_its_reader_to_name(tmp_path):
    (tmp_path / "a.png").symlink_to("a.png")
    assert [*find_files(tmp_path)] == [tmp_path / "a.png"]


def test_links_that_multiply_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("segnl.core.find_files.MAX_REPEATS", 1000)
    for i in range(22):
        (tmp_path / str(i)).mkdir()
        for name in ("a", "b"):
            (tmp_path / str(i) / name).symlink_to(tmp_path / str(i + 1))
    (tmp_path / "22").mkdir()
    with pytest.raises(DataError, match="symbolic links lead to the same folders again and again; remove some"):
        list(find_files(tmp_path / "0"))


def test_many_links_to_one_folder_are_followed(tmp_path):
    write(tmp_path, "shared/a.png")
    for i in range(150):
        (tmp_path / "here" / str(i)).mkdir(parents=True)
        (tmp_path / "here" / str(i) / "calibration").symlink_to(tmp_path / "shared")
    assert len(names(tmp_path / "here")) == 150
