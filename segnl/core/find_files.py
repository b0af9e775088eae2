"""Finds the files below a folder: one way for data sets, predictions and evaluators. Imports no torch."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from segnl.core.archives import files_in
from segnl.core.errors import DataError


def find_files(folder: Path, *, recursive: bool = True) -> Iterator[Path]:
    """Yields the files of a folder in the order of their names, then those of each sub-folder if `recursive`.

    Names that begin with a dot are left out: macOS leaves ._NAME.jpg beside NAME.jpg on other file systems. Symbolic
    links are followed; a link to one of the folders that it lies in is left out, since its files are found already.

    A zip archive is a folder too. Raises DataError for a folder that cannot be read, or to which MAX_WAYS links lead.
    """
    packed = files_in(folder, recursive=recursive)
    yield from _find_files(folder, recursive, (), Counter()) if packed is None else packed


_Identity = tuple[int, int]
"""Device and inode."""
MAX_WAYS = 100
"""Ways to one folder; links in links make millions of a few."""


def _find_files(
    folder: Path, recursive: bool, parents: tuple[_Identity, ...], num_ways: Counter[_Identity]
) -> Iterator[Path]:
    """parents: the folders above this one. num_ways: how often each folder was found, which is counted here."""
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            is_folder = {entry.name: _leads_to_folder(entry) for entry in entries if entry.name[0] != "."}
    except OSError as err:
        raise DataError(f"{folder}: cannot be read ({err.strerror}); check its permissions") from err
    identity = (status.st_dev, status.st_ino)
    if identity in parents:
        return
    num_ways[identity] += 1
    if num_ways[identity] > MAX_WAYS:
        raise DataError(f"{folder}: symbolic links lead here in more than {MAX_WAYS} ways; remove some")
    names = sorted(is_folder)
    yield from (folder / name for name in names if not is_folder[name])
    for name in (name for name in names if recursive and is_folder[name]):
        yield from _find_files(folder / name, recursive, (*parents, identity), num_ways)


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
