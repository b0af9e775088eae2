"""The file of per-image counts that `segnl score` keeps and `segnl compare` reads. Imports no torch.

FILE.counts.npz: `about`, a JSON text with source, format and checksum, and the arrays of ScoredCounts.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segnl.core.arrays import Counts, Pixels
from segnl.core.errors import DataError, first_line
from segnl.core.files import NPZ_FAULTS
from segnl.core.npz import npz_bytes, read_array

MAX_TEXT = 10_000
FORMAT = "segnl-counts-1"
SUFFIX = ".counts.npz"
_COUNTS = ("intersection", "target", "union")
_TEXTS = ("sample_ids", "class_names", "label_digests", "prediction_digests")


@dataclass(frozen=True)
class ScoredCounts:
    """Pixel counts of scored masks by image and class, int64 `n k` each.

    source: what was scored. label_digests, prediction_digests: of each image's train ids and size. warnings: reasons to
    doubt that this is the score of these predictions over the whole data set.
    """

    source: str
    sample_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    intersection: Counts
    target: Counts
    union: Counts
    label_digests: tuple[str, ...]
    prediction_digests: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def mask_digest(ids: Pixels) -> str:
    """Returns 16 hex digits for train ids `H W` and their size."""
    return hashlib.sha256(str(ids.shape).encode() + ids.tobytes()).hexdigest()[:16]


def counts_path(json_file: Path) -> Path:
    """Returns the path of the counts beside a --json file: out.counts.npz for out.json."""
    return json_file.with_suffix(SUFFIX)


def counts_bytes(counts: ScoredCounts) -> bytes:
    """Returns the content of the file, which `load_counts` reads."""
    arrays: dict[str, npt.NDArray[Any]] = {name: getattr(counts, name) for name in _COUNTS}
    arrays |= {name: np.array(getattr(counts, name), dtype=np.str_) for name in _TEXTS}
    about = {"format": FORMAT, "source": counts.source, "warnings": list(counts.warnings)}
    about["checksum"] = _checksum(counts.source, counts.warnings, arrays)
    return npz_bytes({"about": np.array(json.dumps(about))} | arrays)


def load_counts(path: Path) -> ScoredCounts:
    """Reads a file of `counts_bytes`. Raises DataError for a missing, damaged, changed or foreign file."""
    try:
        about = json.loads(str(read_array(path, "about")))
        arrays = {name: read_array(path, name) for name in (*_COUNTS, *_TEXTS)}
        source, warnings = about["source"], about.get("warnings", [])  # older files have none
        if not all(isinstance(text, str) and len(text) <= MAX_TEXT for text in (source, *warnings)):
            raise ValueError("its source or a warning is no text, or a long one")
        if about["format"] != FORMAT:
            raise DataError(f"{path}: counts of format {about['format']!r}; expected {FORMAT}: score the masks again")
        if about["checksum"] != _checksum(source, warnings, arrays):
            raise DataError(f"{path}: does not agree with its checksum; score the masks again")
        shape = len(arrays["sample_ids"]), len(arrays["class_names"])
        if {arrays[name].shape for name in _COUNTS} != {shape} or any(
            arrays[name].dtype != np.int64 for name in _COUNTS
        ):
            raise ValueError(f"counts are not int64 of shape {shape}")
        if 0 in shape:
            raise ValueError(f"counts of {shape[0]} images and {shape[1]} classes")
        intersection, target, union = (arrays[name] for name in _COUNTS)
        if not ((intersection >= 0) & (intersection <= target) & (target <= union) & (union < 2**40)).all():
            raise ValueError("counts that no mask can have; expected 0 <= intersection <= target <= union < 2^40")
        if any(arrays[name].dtype.kind != "U" or arrays[name].ndim != 1 for name in _TEXTS) or any(
            len(set(arrays[name].tolist())) != len(arrays[name]) for name in ("sample_ids", "class_names")
        ):
            raise ValueError("names that are no texts, or stand twice")
        if any(len(arrays[name]) not in (0, shape[0]) for name in ("label_digests", "prediction_digests")):
            raise ValueError("digests that are not one for each image")
    except NPZ_FAULTS as err:
        detail = f"cannot be read as counts of segnl score ({first_line(err)})"
        raise DataError(f"{path}: {detail}; score the masks again") from err
    values: dict[str, Any] = {name: arrays[name] for name in _COUNTS}
    values |= {name: tuple(arrays[name].tolist()) for name in _TEXTS}
    return ScoredCounts(source, **values, warnings=tuple(warnings))


def _checksum(source: str, warnings: Sequence[str], arrays: dict[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256("".join([source, *warnings]).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
