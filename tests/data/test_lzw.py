import numpy as np
import pytest

from segnl.data.file_error import FileError
from segnl.data.lzw import require_lzw
from segnl.data.reading import ImageFormat, read_image

CRASHES = bytes.fromhex("804ce04fe813fe090382c1e0d09864221d0b87c2a250d8845627118a3fa020")
"""A damaged strip for which imagecodecs 2026.3 ends the process."""


def is_valid(data):
    """Reads bit by bit, counting the entries of the table: TIFF 6.0, section 13."""
    bits = "".join(f"{byte:08b}" for byte in data)
    entries, is_first, place = 258, True, 0
    while True:
        width = 9 + (entries >= 511) + (entries >= 1023) + (entries >= 2047)
        if place + width > len(bits):
            return True
        code = int(bits[place : place + width], 2)
        place += width
        if code == 257:
            return True
        if code == 256:
            entries, is_first = 258, True
        elif code > (255 if is_first else entries):
            return False
        elif is_first:
            is_first = False
        else:
            entries += 1


def accepted(data):
    try:
        require_lzw(data)
    except OSError:
        return False
    return True


def stream(rng, num_codes):
    """Packs codes of which nearly all are defined."""
    bits, entries, is_first = f"{256:09b}", 258, True
    for _ in range(num_codes):
        width = 9 + (entries >= 511) + (entries >= 1023) + (entries >= 2047)
        code = int(rng.integers(256 if is_first else entries + 1))
        if rng.random() < 0.0005 or entries > 4090:
            code = 256
        entries, is_first = (258, True) if code == 256 else (entries + (not is_first), False)
        bits += f"{code:0{width}b}"
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def test_streams_are_accepted_as_by_a_slow_reader():
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(300):
        data = bytearray(stream(rng, int(rng.integers(0, 3000))))
        for _ in range(int(rng.integers(0, 20))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        outcomes.append(is_valid(bytes(data)))
        assert accepted(bytes(data)) == outcomes[-1]
    assert 50 < sum(outcomes) < 280
    assert accepted(b"")


@pytest.mark.timeout(20)
def test_a_stream_of_empty_tables_is_refused_at_once():
    bits = f"{256:09b}" * 8
    assert not accepted(bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)) * 100_000)


def test_a_tiff_whose_codes_are_not_defined_is_damaged(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="the extra `tiff` is not installed")
    pytest.importorskip("imagecodecs", reason="the extra `tiff` is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, (23, 31, 5)).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, compression="lzw", photometric="minisblack", planarconfig="contig")
    assert np.array_equal(read_image(path, ImageFormat(num_bands=5)), pixels)
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[0].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(start)
        file.write(CRASHES)
    with pytest.raises(FileError, match="a code of its LZW compression is not defined"):
        read_image(path, ImageFormat(num_bands=5))
