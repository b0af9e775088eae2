"""Hashes of the initial weights and of every batch, which log.jsonl holds.

They record what a training run really started from and saw; runs of a controlled comparison must agree in them.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from segnl.data.sample import Batch

PIXEL_STRIDE = 4  # in both directions: enough to tell crops, flips and colours apart, a sixteenth of the bytes


def initial_hashes(model: nn.Module) -> dict[str, str]:
    """Returns a hash of the values of every parameter and buffer, under the key `PATH SHAPE`."""
    return {
        f"{path} {'x'.join(map(str, values.shape)) or 'scalar'}": short(hashlib.sha256(bytes_of(values)).hexdigest())
        for path, values in model.state_dict().items()
    }


def module_hashes(initial: Mapping[str, str]) -> dict[str, str]:
    """Combines `initial_hashes` into one hash for each top module (backbone, head, classifier, auxiliary)."""
    lines: dict[str, list[str]] = {}
    for tensor, value in initial.items():
        lines.setdefault(tensor.split(".")[0], []).append(f"{tensor} {value}")
    return {module: short(hashlib.sha256("\n".join(text).encode()).hexdigest()) for module, text in lines.items()}


def batch_hash(batch: Batch) -> str:
    """Returns a hash of a step's sample ids, images and labels, of every fourth pixel in every fourth row."""
    digest = hashlib.blake2b(digest_size=6)
    digest.update("\n".join(batch.sample_ids).encode())
    label = batch.label.long()  # int64, so that the hashes of older runs still compare
    image = batch.image if batch.stages is not None else hashed_pixels(batch.image)
    for shape, values in (((*image.shape[:2], *label.shape[1:]), image), (label.shape, hashed_pixels(label))):
        digest.update(f"{tuple(shape)}".encode())
        digest.update(bytes_of(values))
    return digest.hexdigest()


def hashed_pixels(values: Tensor) -> Tensor:
    """Returns every fourth pixel in every fourth row of images or labels `... H W`."""
    return values[..., ::PIXEL_STRIDE, ::PIXEL_STRIDE]


def bytes_of(values: Tensor) -> bytes:
    """Returns a tensor's bytes in the order of its axes."""
    return np.ascontiguousarray(values.detach().cpu().numpy()).tobytes()


def short(digest: str) -> str:
    """Returns the first 16 characters: 64 bits, too many for an accidental match."""
    return digest[:16]
