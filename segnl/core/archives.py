"""Files inside of zip archives, read in place: DATA.zip/images/a.jpg is a path like any other. Imports no torch.

Nothing is unpacked, so a member's name leads nowhere; one that is no plain path below the archive is refused all the
same, since other programs would unpack it elsewhere.
"""

import errno
import functools
import hashlib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from segnl.core.errors import DataError, first_line
from segnl.core.files import open_regular

MAX_DIRECTORY_BYTES, MAX_DEPTH = 2**25, 64
"""Of an archive's list of members (a third of a million names, half a gigabyte in each process), and of folders in
folders."""
MAX_FOLDER_BYTES = 2**28
"""Of memory for an archive's folders, at about 800 bytes and the path each."""
MAX_MEMBER_BYTES = 2**30
MAX_RATIO, FREE_BYTES = 100, 2**30
"""An archive whose members are together more than this many times its size, and above FREE_BYTES, is a bomb."""


_UNPACK_ERRORS = (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


class MemberError(OSError):
    """A member that cannot be unpacked. Its errno is None, as for a file whose bytes are damaged."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.strerror = reason


class _Archive:
    """A zip archive that is open. members: by path inside of it. folders: names of files and of folders in each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # zipfile reads the list at one go
            if end is not None and end[5] > MAX_DIRECTORY_BYTES:
                raise DataError(f"{path}: a list of {end[5]:,} bytes names its members; unpack the archive")
            self.zip = zipfile.ZipFile(path)
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as err:
            raise DataError(f"{path}: cannot be read as a zip archive ({first_line(err)}); download it again") from err
        self.members: dict[str, zipfile.ZipInfo] = {}
        self.folders: dict[str, tuple[set[str], set[str]]] = {"": (set(), set())}
        self.folder_bytes = 0
        for info in self.zip.infolist():
            self._add(path, info)
        size = sum(info.file_size for info in self.members.values())
        if size > max(FREE_BYTES, MAX_RATIO * path.stat().st_size):
            raise DataError(
                f"{path}: unpacks to {size:,} bytes, more than {MAX_RATIO} times its size, as a zip bomb does; unpack "
                "it if you trust it"
            )

    def _add(self, path: Path, info: zipfile.ZipInfo) -> None:
        name = _name_of(info).replace("\\", "/")  # some programs on Windows write that
        *parents, last = [part for part in name.rstrip("/").split("/") if part not in (".", "")] or [""]
        is_plain = bool(last) or name[-1:] == "/"
        is_plain &= name[:1] != "/" and name[1:2] != ":" and "\0" not in name and ".." not in (*parents, last)
        if not is_plain or len(parents) > MAX_DEPTH:
            raise DataError(f"{path}: holds {name!r}, which leads out of the archive or is no name; pack it again")
        if "__MACOSX" in parents or name[-1] == "/":  # resource forks that macOS packs
            return
        name = "/".join((*parents, last))
        if name in self.members:
            raise DataError(f"{path}: holds {name!r} twice; pack it again")
        self.members[name] = info
        self._folder("/".join(parents))[0].add(last)

    def _folder(self, name: str) -> tuple[set[str], set[str]]:
        """Returns the names in a folder; adds it, and the folders above it, if it is new."""
        if name not in self.folders:
            self.folder_bytes += 800 + len(name)
            if self.folder_bytes > MAX_FOLDER_BYTES:
                raise DataError(f"{self.path}: has more than {len(self.folders):,} folders; unpack the archive")
            self.folders[name] = (set(), set())
            above, _, last = name.rpartition("/")
            self._folder(above)[1].add(last)
        return self.folders[name]

    def find(self, folder: str, *, recursive: bool) -> Iterator[str]:
        """Yields the visible files of a folder by name, then those of each sub-folder."""
        files, folders = (sorted(name for name in names if name[0] != ".") for names in self.folders[folder])
        yield from (f"{folder}/{name}".lstrip("/") for name in files)
        for name in folders if recursive else ():
            yield from self.find(f"{folder}/{name}".lstrip("/"), recursive=True)

    def member(self, name: str) -> zipfile.ZipInfo:
        """Returns the entry of a member. Raises FileNotFoundError for none."""
        if name not in self.members:
            raise FileNotFoundError(errno.ENOENT, "no such file in the archive", str(self.path / name))
        return self.members[name]

    def read(self, name: str) -> bytes:
        """Returns the bytes of a member. Raises FileNotFoundError for none, MemberError for one that is damaged."""
        info = self.member(name)
        if info.flag_bits & 1:
            raise MemberError("it is encrypted; pack it without a password")
        if info.file_size > MAX_MEMBER_BYTES:
            raise MemberError(f"it unpacks to {info.file_size:,} bytes; unpack the archive")
        require_bounded(info)
        try:
            with self.zip.open(info) as file:
                return file.read(max(1, info.file_size))  # without a number zipfile unpacks up to 2 GiB
        except _UNPACK_ERRORS as err:
            raise MemberError(f"damaged in the archive: {first_line(err)}") from err


def require_bounded(info: zipfile.ZipInfo) -> None:
    """Raises MemberError for a member of a method that zipfile unpacks without bound: all but stored and deflated."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise MemberError(f"it is compressed by method {info.compress_type}; pack it again with deflate (zip)")


def _name_of(info: zipfile.ZipInfo) -> str:
    """Returns a member's name. macOS writes UTF-8 without saying so, and Python reads it as code page 437."""
    if not info.flag_bits & 0x800:
        try:
            return info.orig_filename.encode("cp437").decode("utf-8")
        except UnicodeError:
            pass
    return info.orig_filename


def archive_of(path: Path) -> Path | None:
    """Returns the archive that `path` is or lies in; None for a plain path."""
    if ".zip" not in str(path).lower():
        return None
    above = (path, *path.parents)
    return next((part for part in above if part.suffix.lower() == ".zip" and part.is_file()), None)


def _lookup(path: Path) -> tuple[_Archive, str] | None:
    archive = archive_of(path)
    if archive is None:
        return None
    status = archive.stat()
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    name = str(path.relative_to(archive))
    return _opened(archive, identity, os.getpid()), "" if name == "." else name


@functools.lru_cache(maxsize=8)
def _opened(path: Path, _identity: tuple[int, ...], _process: int) -> _Archive:
    """Opens an archive once in each process: a forked one shares the position in its parent's open file."""
    return _Archive(path)


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder, an archive, or a folder in one."""
    place = _lookup(path)
    return path.is_dir() if place is None else place[1] in place[0].folders


def is_file(path: Path) -> bool:
    """Whether `path` is a file, or one in an archive; an archive itself is a folder."""
    place = _lookup(path)
    return path.is_file() if place is None else place[1] in place[0].members


def folders_in(folder: Path) -> list[str]:
    """Returns the names of the folders in `folder`, sorted."""
    place = _lookup(folder)
    if place is None:
        return sorted(path.name for path in folder.iterdir() if path.is_dir())
    return sorted(place[0].folders[place[1]][1])


def files_in(folder: Path, *, recursive: bool) -> list[Path] | None:
    """Returns the visible files of an archive or of a folder in one; None for a plain folder.

    Raises DataError for an archive that cannot be read, and for a folder that is not in it.
    """
    place = _lookup(folder)
    if place is None:
        return None
    archive, name = place
    if name not in archive.folders:
        raise DataError(f"{folder}: no such folder in the archive")
    return [archive.path / file for file in archive.find(name, recursive=recursive)]


def size_of(path: Path) -> int:
    """Returns the bytes of a file. Raises OSError for a missing one."""
    place = _lookup(path)
    if place is None:
        return path.stat().st_size
    archive, name = place
    return archive.member(name).file_size


def bytes_of(path: Path) -> bytes:
    """Returns the bytes of a file as `open_file` opens it."""
    with open_file(path) as file:
        return file.read()


def text_lines(path: Path, expected: str) -> list[str]:
    """Returns the lines of a UTF-8 text; U+2028 and a form feed end none, since a name may hold them.

    Raises DataError, saying what was expected, for one that cannot be read.
    """
    try:
        return re.split("\r\n|\r|\n", bytes_of(path).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or "not UTF-8 text"
        raise DataError(f"{path}: cannot be read ({reason}); expected {expected}") from err


def member_bytes(path: Path) -> bytes | None:
    """Returns the bytes of a file in an archive; None for a plain path. Raises OSError as opening a file does."""
    place = _lookup(path)
    if place is None or not place[1]:
        return None
    return place[0].read(place[1])


def open_file(path: Path) -> io.BufferedReader | io.BytesIO:
    """Opens a regular file, or one in an archive, for reading.

    Raises OSError for any other, such as a pipe that nobody writes to.
    """
    content = member_bytes(path)
    return open_regular(path) if content is None else io.BytesIO(content)


def sha256_of(path: Path) -> str:
    """Returns the hex digest of the bytes of a file, or of one in an archive."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
