"""Checksums of .safetensors files: the SHA-256 of the whole file with the checksum's own 64 characters read as zeros.

So it covers every byte. It finds damage; it says nothing about who wrote a file.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from segnl.core.errors import CheckpointError
from segnl.core.files import read_bytes

CHECKSUM_KEY = "seal"
"""Key of the checksum in the metadata; its name is that of the first files."""
NO_CHECKSUM = "0" * 64


def to_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Returns the bytes of a .safetensors file that holds its own checksum."""
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(contiguous, {CHECKSUM_KEY: NO_CHECKSUM, **metadata})
    return _with_checksum(data, NO_CHECKSUM, hashlib.sha256(data).hexdigest())


def read_safetensors(path: Path, remedy: str) -> tuple[bytes, dict[str, str]]:
    """Returns a file's bytes and metadata, after the check that the header fits the file.

    remedy: what to do about a damaged file. Raises CheckpointError when it cannot be read.
    """
    try:
        data = read_bytes(path)
        safetensors.deserialize(data)
        (length,) = struct.unpack("<Q", data[:8])
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except OSError as err:
        raise CheckpointError(f"{path}: cannot be read ({err.strerror}); give a run's folder or its file") from err
    except (SafetensorError, struct.error, ValueError) as err:
        reason = f"{len(data)} bytes, truncated or of another kind"
        raise CheckpointError(f"{path}: not a whole checkpoint ({reason}); {remedy}") from err
    return data, {str(key): str(value) for key, value in metadata.items()}


def require_checksum(path: Path, data: bytes, checksum: str, remedy: str) -> None:
    """Raises CheckpointError unless `checksum` is that of the file's bytes."""
    if hashlib.sha256(_with_checksum(data, checksum, NO_CHECKSUM)).hexdigest() != checksum:
        raise CheckpointError(f"{path}: damaged (its checksum does not match); {remedy}")


def _with_checksum(data: bytes, old: str, new: str) -> bytes:
    return data.replace(f'"{CHECKSUM_KEY}":"{old}"'.encode(), f'"{CHECKSUM_KEY}":"{new}"'.encode(), 1)
