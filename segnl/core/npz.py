"""Arrays from .npy and .npz files of strangers: without pickle, and never larger than asked for. Imports no torch."""

import io
import math
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from segnl.core.archives import open_file, require_bounded

MAX_ITEMS = 2**28
MAX_BYTES = 2**31
MAX_HEADER_BYTES = 2**16


def npz_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Returns the content of a compressed .npz file."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]  # its stub knows only positional arrays
    return packed.getvalue()


def array_names(path: Path) -> list[str]:
    """Returns the names of the arrays in an .npz file. Raises ValueError for a doubled name, and what zipfile does."""
    with open_file(path) as content, zipfile.ZipFile(content) as file:
        names = [name.removesuffix(".npy") for name in file.namelist()]
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"holds the array {name!r} twice; keep one of them")
    return names


def read_array(path: Path, name: str) -> npt.NDArray[Any]:
    """Reads one array of an .npz file. Raises KeyError for a missing one, and as `load_array` does."""
    with open_file(path) as content, zipfile.ZipFile(content) as file, _member(file, f"{name}.npy") as member:
        return load_array(member)


def read_arrays(content: IO[bytes]) -> dict[str, npt.NDArray[Any]]:
    """Reads all arrays of an .npz file. Raises ValueError for more than MAX_BYTES, and as `load_array` does."""
    arrays = {}
    with zipfile.ZipFile(content) as file:
        if (size := sum(info.file_size for info in file.infolist())) > MAX_BYTES:
            raise ValueError(f"arrays of {size:,} bytes; expected at most 2 GiB")
        for name in file.namelist():
            with _member(file, name) as member:
                arrays[name.removesuffix(".npy")] = load_array(member)
    return arrays


def _member(file: zipfile.ZipFile, name: str) -> IO[bytes]:
    require_bounded(file.getinfo(name))
    return file.open(name)


def array_shape(path: Path, name: str) -> tuple[int, ...]:
    """Returns the shape of one array of an .npz file by its header alone. Raises as `read_array` does."""
    with open_file(path) as content, zipfile.ZipFile(content) as file, _member(file, f"{name}.npy") as member:
        return _shape(member)


def load_array(file: IO[bytes]) -> npt.NDArray[Any]:
    """Reads an array in NumPy's format. Raises what NumPy raises (core/files.py: NPZ_FAULTS).

    The header is looked at first: a few bytes of it may ask for any amount of memory. ValueError for more than
    MAX_ITEMS or MAX_BYTES.
    """
    _shape(file)
    file.seek(0)
    array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _shape(file: IO[bytes]) -> tuple[int, ...]:
    start = file.read(12)  # 6 bytes of magic, 2 of the version, 2 or 4 of the header's length
    if int.from_bytes(start[8 : 10 if start[6:7] == b"\1" else 12], "little") > MAX_HEADER_BYTES:
        raise ValueError("the header of an array is damaged")
    file.seek(0)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read_header(file)
    except Exception as err:  # the parser of a hostile header raises nearly anything, and quotes all of it
        raise ValueError("the header of an array is damaged") from err
    if max(math.prod(shape), *shape, 0) > MAX_ITEMS or math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise ValueError(f"shape {shape} of {dtype}; expected at most 2^28 items in 2 GiB")
    return shape
