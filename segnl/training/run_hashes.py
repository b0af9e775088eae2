"""What a training leaves behind of what it really began with and saw: short hashes, which its log holds.

Two trainings of a controlled comparison must agree in them; a promise that code keeps is one thing, a record another.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from segnl.data.sample import Batch

EVERY = 4  # of the pixels in both directions: enough to tell crops, flips and colours apart, a sixteenth of the bytes


def initial_hashes(model: nn.Module) -> dict[str, str]:
    """By `path shape`, a hash of the values of every parameter and buffer."""
    return {
        f"{path} {'x'.join(map(str, values.shape)) or 'scalar'}": short(hashlib.sha256(bytes_of(values)).hexdigest())
        for path, values in model.state_dict().items()
    }


def module_hashes(initial: Mapping[str, str]) -> dict[str, str]:
    """One hash for each top module (backbone, head, classifier, auxiliary), of its part of `initial_hashes`."""
    parts: dict[str, list[str]] = {}
    for place, value in initial.items():
        parts.setdefault(place.split(".")[0], []).append(f"{place} {value}")
    return {name: short(hashlib.sha256("\n".join(lines).encode()).hexdigest()) for name, lines in parts.items()}


def batch_hash(batch: Batch) -> str:
    """A hash of a step's images and labels, of every fourth pixel in every fourth row, and of the images' stems."""
    digest = hashlib.blake2b(digest_size=6)
    digest.update("\n".join(batch.sample_ids).encode())
    for values in (batch.image, batch.label.long()):  # int64, so that the hashes of older runs still compare
        digest.update(f"{tuple(values.shape)}".encode())
        digest.update(bytes_of(values[..., ::EVERY, ::EVERY]))
    return digest.hexdigest()


def bytes_of(values: Tensor) -> bytes:
    """A tensor's numbers in the order of its axes."""
    return np.ascontiguousarray(values.detach().cpu().numpy()).tobytes()


def short(digest: str) -> str:
    """The first 16 characters: 64 bits, which no accident makes equal."""
    return digest[:16]
