"""Zip archives read in place."""

import multiprocessing
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from segnl.core import archives
from segnl.core.archives import bytes_of, is_file, is_folder, open_file, sha256_of, size_of, text_lines
from segnl.core.errors import DataError
from segnl.core.find_files import find_files


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def listed(archive: Path) -> list[str]:
    return [str(path.relative_to(archive)) for path in find_files(archive)]


def test_an_archive_lists_and_reads_as_the_folder_it_was_packed_from(tmp_path):
    members = {
        "b/x.png": b"1",
        "b/a/y.png": b"22",
        "z.txt": b"",
        "a/é ü.png": b"3",
        ".DS_Store": b"",
        "b/Thumbs.db": b"4",
    }
    for name, content in members.items():
        (tmp_path / "plain" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "plain" / name).write_bytes(content)
    archive = pack(tmp_path / "Data.ZIP", members | {"__MACOSX/b/._x.png": b"5"})
    assert listed(archive) == [str(path.relative_to(tmp_path / "plain")) for path in find_files(tmp_path / "plain")]
    for name in listed(archive):
        assert bytes_of(archive / name) == open_file(archive / name).read() == members[name]
        assert sha256_of(archive / name) == sha256_of(tmp_path / "plain" / name)
        assert size_of(archive / name) == len(members[name])
    assert [is_folder(archive / name) for name in ("", "b/a", "c", "z.txt")] == [True, True, False, False]
    assert [is_file(archive / name) for name in ("", "b/a", "c", "z.txt")] == [False, False, False, True]
    with pytest.raises(FileNotFoundError):
        bytes_of(archive / "b/nothing.png")


def test_sha256_is_of_the_bytes(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of(tmp_path / "f").startswith("ba7816bf8f01cfea")


def test_names_of_windows_and_of_macos_are_read(tmp_path):
    archive = pack(tmp_path / "a.zip", {"images\\a.png": b"1", "labels/uu.png": b"2"})
    content = archive.read_bytes().replace(b"labels/uu.png", "labels/ü.png".encode())  # UTF-8 without the flag
    archive.write_bytes(content)
    assert listed(archive) == ["images/a.png", "labels/ü.png"]


@pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", "/etc/a.png", "C:/a.png", "\\\\host\\a.png", "."])
def test_a_name_that_leads_out_of_the_archive_is_refused(name, tmp_path):
    with pytest.raises(DataError, match=r"a\.zip: holds .* leads out of the archive or is no name"):
        listed(pack(tmp_path / "a.zip", {"b.png": b"", name: b""}))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 2**20)
    with pytest.raises(DataError, match=r"a\.zip: unpacks to 4,194,304 bytes.*zip bomb"):
        listed(pack(tmp_path / "a.zip", {"a.bmp": bytes(2**22)}))


def test_a_large_member_a_deep_folder_and_a_long_list_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 10)
    with pytest.raises(OSError, match="unpacks to 11 bytes"):
        bytes_of(pack(tmp_path / "a.zip", {"a": bytes(11)}) / "a")
    with pytest.raises(DataError, match="leads out"):
        listed(pack(tmp_path / "b.zip", {"a/" * 999 + "b": b""}))
    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 50)
    with pytest.raises(DataError, match=r"a list of .* bytes names its members"):
        listed(pack(tmp_path / "c.zip", {"a": b"", "b": b""}))


def test_damage_is_one_line(tmp_path):
    archive = pack(tmp_path / "a.zip", {"a.png": b"abcdefgh" * 9})
    content = bytearray(archive.read_bytes())
    content[40] ^= 255
    archive.write_bytes(content)
    with pytest.raises(OSError, match="damaged in the archive"):
        bytes_of(archive / "a.png")
    for kept in (0, 7, len(content) - 9):
        archive.write_bytes(content[:kept])
        with pytest.raises(DataError, match=r"a\.zip: cannot be read as a zip archive"):
            listed(archive)
    twice = pack(tmp_path / "b.zip", {"a": b"1", "b": b"2"})
    twice.write_bytes(twice.read_bytes().replace(b"b", b"a"))
    with pytest.raises(DataError, match="holds 'a' twice"):
        listed(twice)


def test_an_archive_that_is_replaced_is_read_anew(tmp_path):
    assert listed(pack(tmp_path / "a.zip", {"a": b"1"})) == ["a"]
    assert listed(pack(tmp_path / "a.zip", {"b": b"1", "c": b"2"})) == ["b", "c"]


def _read_all(paths: list[Path]) -> list[bytes]:
    return [bytes_of(path) for path in paths]


def test_forked_processes_do_not_share_the_position_in_the_file(tmp_path):
    contents = {f"{i:03}": os.urandom(5000) for i in range(60)}
    archive = pack(tmp_path / "a.zip", contents)
    paths = list(find_files(archive))
    with multiprocessing.get_context("fork").Pool(3) as pool:
        results = [pool.apply_async(_read_all, (paths,)) for _ in range(6)]
        assert _read_all(paths) == [*contents.values()]
        assert all(result.get(timeout=60) == [*contents.values()] for result in results)


def bomb(path: Path, method: int, content: bytes) -> Path:
    """Packs one member, whose entries say that it unpacks to 100 bytes."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a", content)
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", len(content)), struct.pack("<I", 100)))
    return path


def test_a_member_that_lies_about_its_size_is_not_unpacked(tmp_path):
    content = bytes(2**25)
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match="damaged in the archive: Bad CRC-32"):
            bytes_of(bomb(tmp_path / "deflated.zip", zipfile.ZIP_DEFLATED, content) / "a")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(OSError, match=f"compressed by method {method}; pack it again with deflate"):
            bytes_of(bomb(tmp_path / f"{method}.zip", method, content) / "a")


def test_folders_in_an_archive_are_bounded(tmp_path, monkeypatch):
    archive = pack(tmp_path / "a.zip", {f"{i}/b/c/d": b"" for i in range(9)})
    monkeypatch.setattr(archives, "MAX_FOLDER_BYTES", 27 * 810)
    assert len(listed(archive)) == 9
    monkeypatch.setattr(archives, "MAX_FOLDER_BYTES", 20 * 810)
    archives._opened.cache_clear()
    with pytest.raises(DataError, match=r"a\.zip: has more than 21 folders; unpack the archive"):
        listed(archive)


def test_a_text_that_is_not_in_the_archive_is_said_to_be_missing(tmp_path):
    archive = pack(tmp_path / "a.zip", {"b": b""})
    with pytest.raises(DataError, match=r"a\.zip/c: cannot be read \(no such file in the archive\); expected words"):
        text_lines(archive / "c", "words")
