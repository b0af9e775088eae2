"""Writing that a crash, a full disk or a second process cannot spoil. Imports no torch."""

import fcntl
import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segnl.core.errors import ConfigError, MachineError

NPZ_FAULTS = (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What numpy and zipfile raise for an .npz that is cut short, damaged, or of another kind."""

# Read once: it can be read only by setting it, and two threads that do so at a time could leave it at nothing.
_UMASK = os.umask(0)
os.umask(_UMASK)

LOCK = ".lock"
"""The file in a run's folder that `run_lock` holds."""


def write_atomic(path: Path, data: bytes) -> None:
    """Puts `data` at `path` whole or not at all: a reader sees the old file or the new one, whatever dies when.

    Raises MachineError naming the path (disk full, no permission); the old file is then still there.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as err:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        raise MachineError(
            f"{path}: cannot be written ({err.strerror}); free some space or choose another place"
        ) from err


def _sync_folder(folder: Path) -> None:
    """Makes a rename outlive a power cut; some file systems do not offer it, and lose only that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Deletes the temporary files that a killed `write_atomic` left in `folder`."""
    for path in folder.glob(".*.????????"):
        with suppress(OSError):
            path.unlink()


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ensure_writable(folder: Path) -> None:
    """Makes `folder` if need be and proves that a file can be put there; raises MachineError where it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as err:
        raise MachineError(f"{folder}: cannot be written ({err.strerror}); choose another place") from err


def inside(folder: Path, name: str) -> Path:
    """`folder/name`, refused with ConfigError when that would lie outside `folder` (`../x`, `/etc/x`)."""
    root = folder.resolve()
    if root not in (root / name).resolve().parents:
        raise ConfigError(f"{name}: leads out of {folder}; give a plain name")
    return folder / name


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process; a second one gets ConfigError at once. It cannot outlive the process."""
    path = folder / LOCK
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not inherited by the loader's workers
        except OSError as err:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ConfigError(f"{folder}: in use by process {holder}; wait for it or give another --run name") from err
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
