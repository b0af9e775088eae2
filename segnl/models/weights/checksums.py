"""Checksums of .safetensors files: the SHA-256 of the whole file with the checksum's own 64 characters read as zeros.

So it covers every byte. It finds damage; it says nothing about who wrote a file.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from segnl.core.errors import CheckpointError, first_line
from segnl.core.files import read_bytes
from segnl.models.weights.files import listed

CHECKSUM_KEY = "seal"
"""Key of the checksum in the metadata; its name is that of the first files."""
NO_CHECKSUM = "0" * 64
COPIES = 2
"""How often safetensors holds all tensors while it writes them: as bytes, and as a file."""


def to_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Returns the bytes of a .safetensors file that holds its own checksum."""
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in contiguous.values())
    np.empty(COPIES * num_bytes, np.uint8)  # raises MemoryError; Rust would abort the process
    data = safetensors.torch.save(contiguous, {CHECKSUM_KEY: NO_CHECKSUM, **metadata})
    return _with_checksum(data, NO_CHECKSUM, _sha256(data))


def read_safetensors(path: Path, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns a file's tensors and metadata, after the check of its checksum where it has one.

    remedy: what to do about a damaged file. Raises CheckpointError when it cannot be read.
    """
    try:
        data = read_bytes(path)
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        raise CheckpointError(f"{path}: cannot be read ({first_line(err)}); give a run's folder or its file") from err
    try:
        safetensors.deserialize(data)
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        metadata = {str(key): str(value) for key, value in (header.pop("__metadata__", None) or {}).items()}
        tensors = safetensors.torch.load(data)
    except (SafetensorError, struct.error, ValueError, TypeError, RuntimeError) as err:  # the last two: huge shapes
        reason = f"{len(data)} bytes, truncated or of another kind"
        raise CheckpointError(f"{path}: not a whole checkpoint ({reason}); {remedy}") from err
    except KeyError as err:
        names = [name for name, entry in header.items() if entry["dtype"] == err.args[0]]
        raise CheckpointError(
            f"{path}: {listed(names)} {err.args[0]}, a type that torch cannot load; {remedy}"
        ) from err
    checksum = metadata.get(CHECKSUM_KEY)
    if checksum is not None and _sha256(_with_checksum(data, checksum, NO_CHECKSUM)) != checksum:
        raise CheckpointError(f"{path}: damaged (its checksum does not match); {remedy}")
    return tensors, metadata


def _with_checksum(data: bytes, old: str, new: str) -> bytes:
    return data.replace(f'"{CHECKSUM_KEY}":"{old}"'.encode(), f'"{CHECKSUM_KEY}":"{new}"'.encode(), 1)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
