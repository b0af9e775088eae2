"""Check of LZW streams, as TIFF has them: the decoder of imagecodecs reads other memory for codes that are not defined.

Source: TIFF 6.0, section 13. Codes have 9 to 12 bits, the most significant first; each after the first adds an entry.
"""

import numpy as np

CLEAR, END = 256, 257
NUM_CODES = 4096 - 256
"""Most codes between two that clear the table."""
_PLACES = np.arange(NUM_CODES)
_HIGHEST = np.where(_PLACES == 0, CLEAR - 1, END + _PLACES)
"""The highest code that is defined at each place after the table was cleared: a single byte, then also new entries."""
_WIDTHS = 9 + np.searchsorted((511, 1023, 2047), END + _PLACES, side="right")
_STARTS = np.concatenate([[0], np.cumsum(_WIDTHS)])
"""First bit of each code after the table was cleared."""


def require_lzw(data: bytes) -> None:
    """Raises OSError for a stream with a code that is not defined where it stands, or of many short tables."""
    values = np.frombuffer(data + bytes(4), np.uint8).astype(np.int64)
    words = values[:-2] << 16 | values[1:-1] << 8 | values[2:]  # at each byte, with the two behind it
    start, num_bits, num_tables = 0, 8 * len(data), 0
    while num := int(np.searchsorted(_STARTS[1:], num_bits - start, side="right")):
        places, widths = start + _STARTS[:num], _WIDTHS[:num]
        codes = words[places >> 3] >> (24 - (places & 7) - widths) & (1 << widths) - 1
        ends = np.flatnonzero((codes == CLEAR) | (codes == END))
        stop = int(ends[0]) if len(ends) else num
        if (codes[:stop] > _HIGHEST[:stop]).any() or stop == NUM_CODES:
            raise OSError("a code of its LZW compression is not defined")
        if stop == num or codes[stop] == END:
            return
        start += int(_STARTS[stop + 1])
        num_tables += 1
        if num_tables > 16 + len(data) // 64:  # no encoder clears so often, and each table costs time
            raise OSError("the table of its LZW compression is cleared too often")
