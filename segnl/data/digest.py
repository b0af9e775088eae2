"""Digest of a split's content: it tells one data set from another, and a corrected one from what it was before."""

import functools
import hashlib
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from segnl.core.archives import archive_of, sha256_of, size_of
from segnl.core.config import JSONDict
from segnl.core.errors import DataError
from segnl.core.find_files import name_text
from segnl.core.limits import num_cores
from segnl.core.log import log
from segnl.data.base import SegmentationData
from segnl.labels.table import ClassTable

MAX_THREADS = 8
LARGE_BYTES = 2e9
RACY_NS = 2_000_000_000
"""A file changed this recently may change again within one tick of its file system's clock, unseen by its times."""


def content_digest(data: SegmentationData, indices: Iterable[int] | None = None) -> str:
    """SHA-256 over the names and bytes of a split's files and over its class table.

    indices: only of these pairs; by default of all. Images and labels are corrected in place, and an uncompressed one
    keeps its size then, so every byte is read: about 1.4 GB/s a thread where the files are in memory.
    Raises DataError for a file that cannot be read.
    """
    lines = table_lines(data.table)
    indices = list(range(len(data)) if indices is None else indices)
    names, paths = [], []
    for i in indices:
        folder = data.sample_ids[i].rpartition("/")[0]
        for path in data.files_of(i):
            names.append(f"{folder and folder + '/'}{name_text(path.name)}")
            paths.append(path)
    with ThreadPoolExecutor(min(MAX_THREADS, num_cores())) as pool:
        lines += [f"{name} {digest}" for name, digest in zip(names, pool.map(file_digest, paths), strict=True)]
    if text := data.generated_from:  # there are no files
        lines += [text, *(data.sample_ids[i] for i in indices)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def digests_of(data: SegmentationData) -> JSONDict:
    """Returns {"content"} of a split, and "frames" where a network sees several: all of it that a score depends on."""
    frames = {} if data.cfg.frames == 1 else {"frames": frames_digest(data)}
    return {"content": content_digest(data)} | frames


def frames_digest(data: SegmentationData) -> str:
    """SHA-256 over which frames the network sees for each pair of a split, and over their bytes."""
    lines = [" ".join(file_digest(path) for path in data.frames_of(i)) for i in range(len(data))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def data_record(data: SegmentationData) -> JSONDict:
    """Returns {"images", "digest"} and `digests_of` a split, which every checkpoint of its training keeps.

    digest: of sample ids, classes and sizes of files, all that the first checkpoints had. content: `content_digest`.
    The folder does not matter. Raises DataError for a file that cannot be read.
    """
    lines = [*table_lines(data.table), *([text] if (text := data.generated_from) else [])]
    num_bytes = 0
    for i, sample_id in enumerate(data.sample_ids):
        try:
            sizes = [size_of(path) for path in data.files_of(i)]
        except OSError as err:
            raise DataError(f"{err.filename}: cannot be read ({err.strerror}); download or export it again") from err
        lines.append(f"{sample_id} {sizes}")
        num_bytes += sum(sizes)
    if num_bytes > LARGE_BYTES:
        log.info("%s: reads %.1f GB once, to notice later changes of its files", data.root, num_bytes / 1e9)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return {"images": len(data), "digest": digest} | digests_of(data)


def data_change(before: JSONDict, now: JSONDict) -> str:
    """Returns in words how the data of two `data_record` differ; "" for the same data. An old one has no "content"."""
    if all(before[key] == now[key] for key in now if key in before):
        return ""
    if before.get("images", now["images"]) != now["images"]:
        return f"{before['images']} images then, {now['images']} now"
    return "the content of images, labels or classes is another"


def table_lines(table: ClassTable) -> list[str]:
    """Returns how a class table maps the values of labels, as text."""
    lines = [str([table.names, table.file_ids, table.ignore_ids, table.void_id])]
    if table.has_label_map:
        lines.append(str([sorted(table.label_values.items()), table.reads_colours, table.ignores_rest]))
    return lines


def file_digest(path: Path) -> str:
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
