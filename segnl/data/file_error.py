"""Error of a file that cannot be used, and the checks that formats share."""

from pathlib import Path

from segnl.core.errors import DataError

MAX_PIXELS = 178_956_970
"""Pixels of the largest image that is decoded unless more are allowed: PIL's own limit against decompression bombs."""
LOSSLESS = ("PNG", "BMP", "DIB", "GIF", "PPM", 1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 34933, 50000)
"""Formats of labels, and compressions of TIFF labels: none, CCITT, LZW, deflate, PackBits, LZMA, PNG and Zstandard."""


class FileError(DataError):
    """A file that cannot be used; the detail says what is wrong and what to do.

    kind: missing, unreadable, empty, damaged, format, size, id, orientation, classes or stale.
    """

    def __init__(self, file: Path, kind: str, detail: str) -> None:
        super().__init__(f"{file}: {detail}")
        self.file = file
        self.kind = kind
        self.detail = detail

    def to_dict(self) -> dict[str, str]:
        """Returns plain values for JSON."""
        return {"file": str(self.file), "kind": self.kind, "detail": self.detail}


def require_lossless(compression: int | str | None, path: Path) -> None:
    """Raises FileError for a label whose values its format may change. compression: of a TIFF; else PIL's format."""
    if compression not in LOSSLESS:
        kind = f"TIFF of compression {compression}" if isinstance(compression, int) else compression
        raise FileError(
            path, "format", f"a label as {kind}, which may change the values that it stores; export it as PNG"
        )


def require_few_pixels(path: Path, hw: tuple[int, int], max_pixels: int) -> None:
    """Raises FileError for an image without pixels or with more than max_pixels."""
    if not 0 < hw[0] * hw[1] <= max_pixels:
        detail = f"has {hw[0]}x{hw[1]} pixels, and at most {max_pixels:,} are decoded; cut it into tiles, or"
        raise FileError(path, "format", f"{detail} raise data.max_pixels of a recipe if you trust it")


def require_one_page(path: Path, num_pages: int) -> None:
    """Raises FileError for several pages or frames."""
    if num_pages != 1:
        detail = f"holds {num_pages} pages or frames; expected one image: save each as a file of its own"
        raise FileError(path, "format", detail)
