"""Decoded samples on disk or in memory, so that a training decodes each image once (`data.cache`).

On disk a sample is FOLDER/KEY.sample: a header, image u8 `H W bands`, label u8 `H W`. FOLDER is $XDG_CACHE_HOME/segnl,
or ~/.cache/segnl. KEY is a SHA-256 over the bytes of the sample's files and over everything that decodes them. So a
file that has changed has another key, nothing in the cache can be out of date, and runs share what is equal. Files are
written whole or not at all. At the limit no more are written; samples without a file are decoded at each reading. Only
damaged files are deleted. The folder may be deleted at any time.

In memory the samples are in one anonymous file, which the loader's processes map. It vanishes with the training.
"""

import inspect
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import PIL

from segnl.core.arrays import Pixels
from segnl.core.background import Background
from segnl.core.errors import ConfigError, MachineError
from segnl.core.files import ensure_writable, not_a_link, open_regular, remove_leftovers, run_lock, write_atomic
from segnl.core.limits import memory_bytes, num_cores
from segnl.core.log import log
from segnl.core.progress import Progress
from segnl.core.result_cache import digest_of
from segnl.data import reading
from segnl.data.base import SegmentationData
from segnl.data.digest import file_digest, table_lines
from segnl.data.sample import Sample
from segnl.labels import table

GB = 10**9
MAX_THREADS = 16
_BLOCK = 4096  # bytes in which file systems count
_HEADER = struct.Struct("<8sIIII40x")  # magic, checksum, rows, columns, bands
_MAGIC = b"segnl-2\n"
_ADDING = threading.Lock()


def cache_samples(splits: Sequence[SegmentationData], *, is_shown: bool = True) -> None:
    """Stores the samples of splits with one `data.cache`; their `read` takes them from there. none: does nothing.

    is_shown: whether progress and the number of stored samples are reported.

    Raises ConfigError for a data set that decodes no files, DataError for a file that cannot be read, MachineError
    when the cache cannot be written.
    """
    cfg = splits[0].cfg
    if cfg.cache == "none":
        return
    if any(data.generated_from or type(data).read is not SegmentationData.read for data in splits):
        raise ConfigError(f"data.cache: data set '{cfg.name}' has no files that a cache could spare; set it to none")
    store = MemoryStore(cfg.cache_limit_gb) if cfg.cache == "ram" else DiskStore(cfg.cache_limit_gb)
    readers = [CacheReader(store, data, _decoder_digest(data)) for data in splits]
    entries = [(reader, i) for reader in readers for i in range(len(reader.keys))]
    _for_all("data.cache: hash", CacheReader.find_key, entries, is_shown=is_shown)
    missing = [(reader, i) for reader, i in entries if reader.mapped(i) is None]
    if missing:
        with store.filling():  # another process may have stored some while this one waited
            missing = [(reader, i) for reader, i in missing if reader.mapped(i) is None]
            _for_all("data.cache: decode", CacheReader.fill, missing, is_shown=is_shown)
    for data, reader in zip(splits, readers, strict=True):
        data.stored = reader.read
    if is_shown:
        num_missing = sum(reader.mapped(i) is None for reader, i in missing)
        text = f"data.cache: {len(entries) - num_missing} of {len(entries)} samples are in {store.title}"
        if num_missing:
            log.warning("%s; %d are decoded at each reading, %s", text, num_missing, store.reason)
        else:
            log.info("%s", text)


def _for_all(
    title: str, call: Callable[["CacheReader", int], None], entries: list[tuple["CacheReader", int]], *, is_shown: bool
) -> None:
    threads = min(num_cores(), MAX_THREADS)
    with (
        Progress(title, len(entries), unit="sample", is_shown=is_shown) as progress,
        Background(threads, max_pending=2 * threads) as pool,
    ):
        for reader, i in entries:
            pool.submit(partial(call, reader, i))
            progress.advance()


def _decoder_digest(data: SegmentationData) -> str:
    """SHA-256 of everything but the files that a split's pixels and train ids depend on."""
    code = [inspect.getsourcefile(kind) for kind in type(data).__mro__ if issubclass(kind, SegmentationData)]
    files = [file_digest(Path(path)) for path in (*code, reading.__file__, table.__file__) if path]
    return digest_of([PIL.__version__, cv2.__version__, asdict(data.image_format), table_lines(data.table), files])


@dataclass
class CacheReader:
    """Samples of one split in a store. Loader processes get a copy."""

    store: "DiskStore | MemoryStore"
    data: SegmentationData
    decoder: str
    keys: list[str] = field(init=False)
    verified: set[int] = field(default_factory=set)
    """Samples whose checksum this process has computed."""

    def __post_init__(self) -> None:
        self.keys = [""] * len(self.data)

    def _key(self, i: int) -> str:
        neighbours = self.data.frames_of(i)[1:]
        files = [file_digest(path) for path in (*self.data.files_of(i), *neighbours)]
        return digest_of([_MAGIC.decode(), self.decoder, self.data.has_labels, files])

    def find_key(self, i: int) -> None:
        """Sets the key of sample `i`; reads its files."""
        self.keys[i] = self._key(i)

    def fill(self, i: int) -> None:
        """Decodes and stores sample `i`, unless the store is full or the files have changed since `find_key`."""
        if self.store.is_full:
            return
        sample = self.data.decode(i)
        pixels = sample.image.tobytes() + sample.label.tobytes()
        if self._key(i) == self.keys[i]:
            shape = sample.image.shape
            self.store.add(self.keys[i], _HEADER.pack(_MAGIC, self._checksum(i, pixels, shape), *shape) + pixels)

    def _checksum(self, i: int, pixels: bytes | memoryview, shape: tuple[int, ...]) -> int:
        """Returns the CRC-32 of a sample's pixels, their shape and the sample's key: a file may have been renamed."""
        return zlib.crc32(pixels, zlib.crc32(f"{self.keys[i]} {shape}".encode()))

    def mapped(self, i: int) -> tuple[Pixels, tuple[int, ...]] | None:
        """Returns the bytes of sample `i` and its checksum, rows, columns, bands; None for one that is not stored."""
        path, start = self.store.place(self.keys[i])
        try:
            with open_regular(Path(path)) as file:
                magic, *header = _HEADER.unpack(os.pread(file.fileno(), _HEADER.size, start))
                _, rows, columns, bands = header
                # "c": private to the process, so a transform that changes its input does not change the cache.
                pixels = np.memmap(file, np.uint8, "c", start + _HEADER.size, (rows * columns * (bands + 1),))
        except (OSError, ValueError, OverflowError, struct.error):  # not there, or damaged
            return None
        return (np.asarray(pixels), tuple(header)) if magic == _MAGIC else None

    def read(self, i: int) -> Sample | None:
        """Returns sample `i`; None for one that is not stored, or damaged."""
        found = self.mapped(i)
        if found is None:
            return None
        pixels, (checksum, rows, columns, bands) = found
        if i not in self.verified:
            if self._checksum(i, pixels.data, (rows, columns, bands)) != checksum:
                self.store.drop(self.keys[i])
                return None
            self.verified.add(i)
        image, label = np.split(pixels, [rows * columns * bands])
        return Sample(image.reshape(rows, columns, bands), label.reshape(rows, columns), self.data.sample_ids[i])


class DiskStore:
    """Samples in the files of one folder, for all data sets and runs of a user."""

    def __init__(self, limit_gb: float) -> None:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self.folder, self.limit, self.used, self.is_full = Path(caches) / "segnl", limit_gb * GB, 0, False
        try:
            ensure_writable(not_a_link(self.folder))
        except MachineError as err:
            raise MachineError(f"data.cache: {err}: set XDG_CACHE_HOME") from err
        self.title = str(self.folder)
        self.reason = f"since the folder may hold {limit_gb:g} GB (data.cache_limit_gb); delete what is old in it"

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Lets one process at a time add samples."""
        with run_lock(self.folder, waits=True):
            remove_leftovers(self.folder)
            self.used = sum(_num_bytes(path.lstat().st_size) for path in self.folder.iterdir())
            yield

    def place(self, key: str) -> tuple[Path | str, int]:
        """Returns the file of a sample, which may not exist, and where the sample begins in it."""
        return self.folder / f"{key}.sample", 0

    def add(self, key: str, sample: bytes) -> None:
        """Writes a sample unless it exceeds the limit. Raises MachineError."""
        if _reserve(self, _num_bytes(len(sample))) is None:
            return
        try:
            write_atomic(self.folder / f"{key}.sample", sample)
        except MachineError as err:
            is_full = not isinstance(err.__cause__, IsADirectoryError)
            remedy = ", or lower data.cache_limit_gb, or set XDG_CACHE_HOME" if is_full else ""
            raise MachineError(f"data.cache: {err}{remedy}") from err

    def drop(self, key: str) -> None:
        """Deletes a damaged sample; the next training stores it again."""
        with suppress(OSError):
            (self.folder / f"{key}.sample").unlink()


class MemoryStore:
    """Samples in an anonymous file in memory, at most half of what this process may use."""

    def __init__(self, limit_gb: float) -> None:
        if not hasattr(os, "memfd_create"):
            raise ConfigError("data.cache: ram needs Linux; set it to disk")
        self.limit, self.used, self.is_full = min(limit_gb * GB, memory_bytes() / 2), 0, False
        self.file: BinaryIO | None = os.fdopen(os.memfd_create("segnl-cache"), "r+b", buffering=0)
        self.path, self.starts = f"/proc/{os.getpid()}/fd/{self.file.fileno()}", dict[str, int]()
        self.title = "memory"
        self.reason = f"since {self.limit / GB:.3g} GB are the most (data.cache_limit_gb, half of the memory)"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"file": None}  # another process opens it by its path

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Does nothing: no other process adds samples."""
        yield

    def place(self, key: str) -> tuple[Path | str, int]:
        """Returns the file, and where the sample begins in it: beyond its end for one that is not stored."""
        return self.path, self.starts.get(key, 2**62)

    def add(self, key: str, sample: bytes) -> None:
        """Writes a sample unless it exceeds the limit. Raises MachineError."""
        start, rest = _reserve(self, _num_bytes(len(sample))), memoryview(sample)
        if start is None or self.file is None:
            return
        try:
            while rest:
                rest = rest[os.pwrite(self.file.fileno(), rest, start + len(sample) - len(rest)) :]
        except OSError as err:
            raise MachineError(
                f"data.cache: ram: {err.strerror}; lower data.cache_limit_gb, or set it to disk"
            ) from err
        self.starts[key] = start

    def drop(self, key: str) -> None:
        """Forgets a damaged sample."""
        self.starts.pop(key, None)


def _reserve(store: DiskStore | MemoryStore, num_bytes: int) -> int | None:
    """Returns where in the store's bytes a new sample begins; None, and the store is full, where it has no room."""
    with _ADDING:
        start = store.used
        store.is_full = store.is_full or start + num_bytes > store.limit
        store.used += 0 if store.is_full else num_bytes
        return None if store.is_full else start


def _num_bytes(size: int) -> int:
    """Returns a file's size in whole blocks."""
    return -(-size // _BLOCK) * _BLOCK
