"""Digest of a split's content: it tells one data set from another, and a corrected one from what it was before."""

import functools
import hashlib
import time
from collections.abc import Iterable
from pathlib import Path

from segnl.core.archives import archive_of, size_of
from segnl.core.config import JSONDict
from segnl.core.errors import DataError
from segnl.core.files import sha256_of
from segnl.core.find_files import name_text
from segnl.data.base import SegmentationData
from segnl.labels.table import ClassTable

RACY_NS = 2_000_000_000
"""A file changed this recently may change again within one tick of its file system's clock, unseen by its times."""


def content_digest(data: SegmentationData, indices: Iterable[int] | None = None) -> str:
    """SHA-256 over the names and bytes of a split's files and over its class table.

    indices: only of these pairs; by default of all. Images and labels are corrected in place, and an uncompressed one
    keeps its size then, so every byte is read: about 1.4 GB/s where the files are in memory.
    Raises DataError for a file that cannot be read.
    """
    lines = _table_lines(data.table)
    indices = list(range(len(data)) if indices is None else indices)
    for i in indices:
        folder = data.sample_ids[i].rpartition("/")[0]
        lines += [f"{folder and folder + '/'}{name_text(path.name)} {_file_digest(path)}" for path in data.files_of(i)]
    if text := data.generated_from():  # there are no files
        lines += [text, *(data.sample_ids[i] for i in indices)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def listing_digest(data: SegmentationData) -> JSONDict:
    """Returns {"images", "digest"} of a split's sample ids, classes and sizes of files.

    It reads no file, so it is fast, and misses a change that leaves the size of a file. The folder does not matter.
    Raises DataError for a file that cannot be found.
    """
    lines = [*_table_lines(data.table), *([text] if (text := data.generated_from()) else [])]
    for i, sample_id in enumerate(data.sample_ids):
        try:
            lines.append(f"{sample_id} {[size_of(path) for path in data.files_of(i)]}")
        except OSError as err:
            raise DataError(f"{err.filename}: cannot be read ({err.strerror}); download or export it again") from err
    return {"images": len(data), "digest": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]}


def _table_lines(table: ClassTable) -> list[str]:
    lines = [str([table.names, table.file_ids, table.ignore_ids, table.void_id])]
    if table.has_label_map:
        lines.append(str([sorted(table.label_values.items()), table.reads_colours, table.ignores_rest]))
    return lines


def _file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, read once in this process unless the file has changed since.

    Writing to a file moves its change time, which no program can set back.
    """
    try:
        status = (archive_of(path) or path).stat()
        if time.time_ns() - status.st_ctime_ns < RACY_NS:
            return sha256_of(path)
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        return _known_digest(path, identity)
    except OSError as err:
        raise DataError(f"{path}: cannot be read ({err.strerror}); download or export it again") from err


@functools.lru_cache(maxsize=100_000)
def _known_digest(path: Path, _identity: tuple[int, ...]) -> str:
    return sha256_of(path)
