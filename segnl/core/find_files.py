"""Finds the files below a folder: one way for data sets, predictions and evaluators. Imports no torch."""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from segnl.core.archives import files_in
from segnl.core.errors import DataError


def find_files(folder: Path, *, recursive: bool = True) -> Iterator[Path]:
    """Yields the files of a folder in the order of their names, then those of each sub-folder if `recursive`.

    Names that begin with a dot are left out: macOS leaves ._NAME.jpg beside NAME.jpg on other file systems. Symbolic
    links are followed; a link to one of the folders that it lies in is left out, since its files are found already.

    A zip archive is a folder too. Raises DataError for a folder that cannot be read, and for links that lead to the
    same folders without end.
    """
    packed = files_in(folder, recursive=recursive)
    yield from _Search(recursive).files(folder, ()) if packed is None else packed


_Identity = tuple[int, int]
"""Device and inode."""
MAX_REPEATS = 50_000
"""Folders of one search that links lead to again; links in links make millions of a few folders."""


@dataclass
class _Search:
    is_recursive: bool
    seen: set[_Identity] = field(default_factory=set)
    num_repeats: int = 0

    def files(self, folder: Path, parents: tuple[_Identity, ...]) -> Iterator[Path]:
        """parents: the folders above this one."""
        try:
            status = folder.stat()
            with os.scandir(folder) as entries:
                is_folder = {entry.name: _leads_to_folder(entry) for entry in entries if entry.name[0] != "."}
        except OSError as err:
            raise DataError(f"{folder}: cannot be read ({err.strerror}); check its permissions") from err
        identity = (status.st_dev, status.st_ino)
        if identity in parents:
            return
        self.num_repeats += identity in self.seen
        self.seen.add(identity)
        if self.num_repeats > MAX_REPEATS:
            raise DataError(f"{folder}: symbolic links lead to the same folders again and again; remove some")
        names = sorted(is_folder)
        yield from (folder / name for name in names if not is_folder[name])
        for name in (name for name in names if self.is_recursive and is_folder[name]):
            yield from self.files(folder / name, (*parents, identity))


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Returns False also for a link to itself, which is listed as a file: its reader names it."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def name_text(name: str) -> str:
    """Returns a file name as text that can be written and compared anywhere.

    Unicode is composed: macOS writes e and an accent where others write one letter. Bytes that are not UTF-8 become
    `\\xdf`.
    """
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))
