"""Arrays of strangers: nothing is unpacked without bound."""

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from segnl.core import npz
from segnl.core.npz import array_shape, npz_bytes, read_array, read_arrays
from segnl.metrics.accumulator import load_per_image


def pack(path: Path, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a.npy", content)
    return path


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(15))
    return file.getvalue()


def test_arrays_come_back():
    arrays = read_arrays(io.BytesIO(npz_bytes({"a": np.arange(15).reshape(3, 5), "b": np.array(2.5)})))
    assert arrays.keys() == {"a", "b"}
    assert arrays["a"].tolist() == np.arange(15).reshape(3, 5).tolist()
    assert arrays["b"] == 2.5


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_array_of_a_method_that_is_unpacked_without_bound_is_refused(tmp_path, method):
    path = pack(tmp_path / "a.npz", npy(), method)
    for read in (read_array, array_shape):
        with pytest.raises(OSError, match=f"compressed by method {method}; pack it again"):
            read(path, "a")
    with pytest.raises(OSError, match=f"compressed by method {method}"), path.open("rb") as file:
        read_arrays(file)


def test_a_header_without_end_is_not_unpacked(tmp_path):
    path = pack(tmp_path / "a.npz", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**25) + bytes(2**25))
    tracemalloc.start()
    try:
        for read in (read_array, array_shape):
            with pytest.raises(ValueError, match="the header of an array is damaged"):
                read(path, "a")
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_counts_of_more_bytes_than_allowed_are_refused(tmp_path, monkeypatch):
    path = pack(tmp_path / "a.npz", npy())
    monkeypatch.setattr(npz, "MAX_BYTES", 200)
    with pytest.raises(Exception, match=r"a\.npz: cannot be read as per-image counts \(arrays of 248 bytes"):
        load_per_image(path)
