"""One rule for every output that a user names: a command replaces only what the same command wrote. Imports no torch.

Such a file says `written by segnl COMMAND`: JSON in its first key, other formats in a remark.
"""

import json
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segnl.core.errors import ConfigError, first_line
from segnl.core.files import open_regular

_WINDOW = 1 << 16
"""Bytes at a file's start and at its end in which the remark is looked for."""


def mark(command: str) -> str:
    """Returns the remark of `segnl COMMAND`, for formats with fields for texts, such as safetensors and ONNX."""
    return f"written by segnl {command}"


def marked(data: bytes, command: str) -> bytes:
    """Returns the bytes of a complete file with the remark of `segnl COMMAND`.

    JSON, PNG, zip, HTML, SVG, PDF, JPEG, TIFF, WebP, BMP and GIF; a file of any other format stays as it is.
    """
    text = mark(command).encode()
    if data.startswith(b"{"):
        return _json_start(command) + b"," + data[1:]
    if data.startswith(b"\x89PNG"):
        return png_with_text(data, "Software", text.decode())
    if data.startswith(b"PK"):
        return data[:-2] + struct.pack("<H", len(text)) + text
    if data.lstrip().startswith(b"<"):
        return data + b"\n<!-- " + text + b" -->\n"
    if data.startswith(b"%PDF"):
        return data + b"\n% " + text + b"\n"
    return data + text if data.startswith((b"\xff\xd8", b"II*", b"MM\0", b"RIFF", b"BM", b"GIF")) else data


def png_with_text(data: bytes, keyword: str, text: str) -> bytes:
    """Returns the bytes of a PNG file with a text chunk after the first chunk."""
    chunk = f"tEXt{keyword}\0{text}".encode("latin-1")
    return data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def json_file(numbers: Mapping[str, Any], command: str) -> bytes:
    """Returns the content of a JSON file with the remark of `segnl COMMAND`."""
    return marked(json.dumps(numbers, indent=1).encode(), command)


def require_own(path: Path, command: str, *, option: str) -> None:
    """Raises ConfigError for a file that `segnl COMMAND` would replace and did not write; an empty one may go.

    option: names the path. Called before the work begins.
    """
    if path.is_symlink() and not path.exists():
        raise ConfigError(f"{option} {path}: is a link to {os.readlink(path)}, which does not exist; give another name")
    try:
        with open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            content = file.read(_WINDOW)
            file.seek(max(len(content), size - _WINDOW))
            content += file.read(_WINDOW)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as err:  # ValueError: a NUL in the name
        raise ConfigError(f"{option} {path}: cannot be replaced ({first_line(err)}); give another name") from err
    is_json = content.startswith((b"{", b"["))  # may quote a file of segnl, so that its own first key decides
    if content and not (content.startswith(_json_start(command)) if is_json else mark(command).encode() in content):
        raise ConfigError(
            f"{path}: exists and was not written by segnl {command}; move it aside, or give {option} another name"
        )


def _json_start(command: str) -> bytes:
    return f'{{\n "written_by": "segnl {command}"'.encode()
