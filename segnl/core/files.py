"""File writes and locks that survive crashes, full disks and second processes. Imports no torch."""

import errno
import fcntl
import io
import json
import os
import secrets
import shlex
import stat
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segnl.core.errors import ConfigError, MachineError
from segnl.core.log import log

NPZ_FAULTS = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""Exceptions of numpy and zipfile for an .npz that is truncated, damaged, or of another kind."""

LEFTOVERS = ".*.segnl-????????"
"""Temporary files of `write_atomic`."""
LEFTOVER_AGE_S = 60.0
"""A temporary file that nobody has written to for so long belongs to no living process."""
LOCK = ".lock"
"""The file in a run's folder that `run_lock` locks."""


_WRITE_REMEDIES = {
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on a file's size (ulimit -f) or choose another place",
    errno.EEXIST: "move the file aside that has the name of its folder",
    errno.ENOTDIR: "move the file aside that has the name of its folder",
    errno.EISDIR: "move that folder aside",
    errno.EACCES: "change its permissions or choose another place",
    errno.EROFS: "choose another place",
}


def cannot_write(path: Path, err: OSError) -> MachineError:
    """Returns the error about a file or folder that cannot be written, with what to do about it."""
    remedy = _WRITE_REMEDIES.get(err.errno or 0, "free some space or choose another place")
    return MachineError(f"{path}: cannot be written ({err.strerror}); {remedy}")


def write_atomic(path: Path, data: bytes, *, is_synced: bool = True) -> None:
    """Writes `data` to `path` atomically: whatever dies when, a reader sees the whole old file or the whole new one.

    is_synced: False is faster for many files; a power cut can damage them then, a killed process cannot.
    Raises MachineError naming the path (disk full, no permission); the old file is then still there.
    """
    write_together({path: data}, is_synced=is_synced)


def write_together(files: Mapping[Path, bytes], *, is_synced: bool = True) -> None:
    """Writes files that belong together, each as `write_atomic` does: old and new ones never lie side by side.

    Raises MachineError naming the path that cannot be written; all old files are then still there.
    """
    temporaries: dict[Path, Path] = {}
    path = next(iter(files))
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            # A short name: that of the file itself may be as long as the file system allows.
            temporaries[path] = path.with_name(f".{path.name[:40]}.segnl-{secrets.token_hex(4)}")
            # Not tempfile: its files are private to the user, whose umask cannot be read safely.
            with open(os.open(temporaries[path], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                file.write(data)
                if is_synced:
                    file.flush()
                    os.fsync(file.fileno())
        for path in list(files)[1:]:
            path.unlink(missing_ok=True)
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except BaseException as err:  # Ctrl-C and SIGTERM too
        for temporary in temporaries.values():
            with suppress(OSError):
                temporary.unlink()
        if not isinstance(err, OSError):
            raise
        raise cannot_write(path, err) from err
    if is_synced:
        for parent in {path.parent for path in files}:
            with suppress(OSError):  # the rename survives a power cut too, on file systems that can sync a folder
                folder = os.open(parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)


def utf8(text: str) -> str:
    """Returns text that can be written as UTF-8: bytes of a file's name that are not UTF-8 become `\\udce9`."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_text(path: Path, text: str) -> None:
    """Writes `utf8(text)` as `write_atomic` does."""
    write_atomic(path, utf8(text).encode())


def read_bytes(path: Path) -> bytes:
    """Returns the bytes of a regular file; `bytes_of` in core/archives.py also reads one in a zip archive."""
    with open_regular(path) as file:
        return file.read()


def open_regular(path: Path) -> io.BufferedReader:
    """Opens a regular file for reading. Raises OSError for any other, such as a pipe that nobody writes to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))


def open_own(path: Path) -> int:
    """Opens a file of segnl's own to write it in place, creates a missing one, and returns its descriptor.

    Raises ConfigError for a link, a folder, a pipe or a device in its place; other OSErrors as `os.open` does.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    kind = "a pipe or a device"
    try:
        descriptor = os.open(path, flags, 0o666)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    except OSError as err:
        if err.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # ENXIO: a socket
            raise
        kind = f"a symbolic link to {os.readlink(path)}" if path.is_symlink() else kind
        kind = "a folder" if err.errno == errno.EISDIR else kind
    raise ConfigError(f"{path}: is {kind}, where segnl writes a file; move it aside")


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file. Raises OSError as `read_bytes`, ValueError for what is no JSON."""
    try:
        return json.loads(read_bytes(path))
    except RecursionError as err:
        raise ValueError("nested without end") from err


def remove_leftovers(folder: Path, *, min_age_s: float = 0.0, recursive: bool = False) -> None:
    """Deletes the temporary files that a killed `write_atomic` left in `folder`; recursive: in its sub-folders too.

    min_age_s: above 0 for a folder that is not locked, where another process may be writing now.
    """
    for path in folder.rglob(LEFTOVERS) if recursive else folder.glob(LEFTOVERS):
        with suppress(OSError):
            if abs(time.time() - path.stat().st_mtime) >= min_age_s:  # a clock that was set back: in the future
                path.unlink()


def ensure_writable(folder: Path) -> None:
    """Creates `folder` if it is missing and deletes leftovers in it; raises MachineError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            remove_leftovers(folder, min_age_s=LEFTOVER_AGE_S)
    except OSError as err:
        reason = f"a link to {os.readlink(folder)}" if folder.is_symlink() else err.strerror
        raise MachineError(f"{folder}: cannot be written ({reason}); choose another place") from err


def inode(path: Path) -> int | None:
    """Returns a file's or folder's number on its disk, which tells it from another one in its place; None for none."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def inside(folder: Path, name: str) -> Path:
    """Returns `folder/name`; raises ConfigError if that lies outside `folder` (`../x`, `/etc/x`) or is no name."""
    root = folder.resolve()
    if "\0" in name:
        raise ConfigError(f"{name!r}: holds a NUL; give a plain name")
    if root not in (root / name).resolve().parents:
        for path in (folder / name, *(folder / name).parents):
            if folder in path.parents:
                not_a_link(path)
        raise ConfigError(f"{name}: leads out of {folder}; give a plain name")
    return folder / name


def shell_word(path: Path | str) -> str:
    """Returns a path as a word of a command for a shell; one that begins with `-` would be an option there."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def not_a_link(folder: Path) -> Path:
    """Returns `folder`; raises ConfigError for a symbolic link, through which files would be written elsewhere."""
    if folder.is_symlink():
        raise ConfigError(f"{folder}: is a symbolic link to {os.readlink(folder)}; remove it")
    return folder


@contextmanager
def run_lock(folder: Path, *, hint: str = "--run name", waits: bool = False) -> Iterator[None]:
    """Locks `folder` for this process until the context or the process ends.

    waits: waits for another process that holds it. Else raises ConfigError; hint: what else the user could give.
    """
    path = folder / LOCK
    with open(open_own(path), "r+b", buffering=0) as file:
        holder = file.read(20).decode(errors="replace").strip() or "unknown"
        if not holder.isdecimal() and holder != "unknown":
            raise ConfigError(f"{path}: exists and was not written by segnl; move it aside")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not inherited by the loader's workers
        except OSError as err:
            if not waits:
                raise ConfigError(f"{folder}: in use by process {holder}; wait for it or give another {hint}") from err
            log.info("%s: in use by process %s; waiting", folder, holder)
            fcntl.lockf(file, fcntl.LOCK_EX)
        try:
            file.truncate(0)
            file.seek(0)
            file.write(str(os.getpid()).encode())
        except OSError as err:
            raise cannot_write(path, err) from err
        yield
