"""Results kept in files under a digest of everything that they depend on. Imports no torch.

FOLDER/NAME-DIGEST.json     {"format", "key", "value", "arrays", "checksum"}, written last
FOLDER/NAME-DIGEST.npz      the result's arrays, where it has some; "arrays" holds the file's SHA-256
FOLDER/NAME-DIGEST/         further files of the result, where the caller puts some

The key is a plain description of the result's inputs, DIGEST the first 16 hex digits of its SHA-256. One rule of
validity: an entry counts if its key is the one asked for, its checksums are right, and its content is what the caller
keeps. Any other is computed again. No file is deleted here but those of killed writes, so a folder of results may hold
other files too; it may itself be deleted at any time.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt
from pydantic import TypeAdapter

from segnl.core.config import JSONDict
from segnl.core.files import (
    LEFTOVER_AGE_S,
    NPZ_FAULTS,
    not_a_link,
    read_bytes,
    read_json,
    remove_leftovers,
    write_atomic,
)
from segnl.core.npz import npz_bytes, read_arrays
from segnl.core.run_log import MAX_NUMBER

FORMAT = "segnl-result-1"

Array = npt.NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """One result. key: what it depends on. value: plain JSON. arrays: by name."""

    key: JSONDict
    value: Any = None
    arrays: Mapping[str, Array] = field(default_factory=dict)


def digest_of(value: Any) -> str:
    """SHA-256 in hex of a plain value's JSON; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_record(path: Path, record: Record) -> None:
    """Writes `path`, a JSON file, and the arrays beside it; whole or not at all. Raises MachineError as `write_atomic`.

    A complete record at `path` means that its arrays are complete, for it is written after them.
    """
    arrays_digest = None
    if record.arrays:
        packed = npz_bytes(record.arrays)
        arrays_digest = hashlib.sha256(packed).hexdigest()
        write_atomic(path.with_suffix(".npz"), packed)
    content = {"format": FORMAT, "key": record.key, "value": record.value, "arrays": arrays_digest}
    write_atomic(path, json.dumps(content | {"checksum": digest_of(content)}, indent=1).encode())


def read_record(path: Path) -> Record | None:
    """Reads what `write_record` wrote; None for a file that is missing, damaged or of another kind."""
    try:
        content = read_json(path)
        checksum = content.pop("checksum")
        if content["format"] != FORMAT or checksum != digest_of(content):
            return None
        arrays: dict[str, Array] = {}
        if content["arrays"] is not None:
            packed = read_bytes(path.with_suffix(".npz"))
            if hashlib.sha256(packed).hexdigest() != content["arrays"]:
                return None
            arrays = read_arrays(io.BytesIO(packed))
        return Record(content["key"], content["value"], arrays)
    except (*NPZ_FAULTS, AttributeError):
        return None


def has_form(value: Any, form: Any) -> bool:
    """Whether a JSON value has the keys, lengths and texts of `form`, and numbers in place of its numbers.

    In place of None it may have a number or None.
    """
    if isinstance(form, dict):
        return (
            isinstance(value, dict) and value.keys() == form.keys() and all(has_form(value[k], form[k]) for k in form)
        )
    if isinstance(form, list):
        return isinstance(value, list) and len(value) == len(form) and all(map(has_form, value, form))
    if isinstance(form, str):
        return bool(value == form)
    return isinstance(value, (int, float)) or value is form is None


def _has_plain_numbers(value: Any) -> bool:
    if isinstance(value, (dict, list)):
        return all(map(_has_plain_numbers, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, (int, float)) or abs(value) <= MAX_NUMBER  # not for NaN


@dataclass(frozen=True)
class ResultCache:
    """Results in the files of one folder, by name and key."""

    folder: Path

    @classmethod
    def of(cls, folder: Path) -> "ResultCache":
        """Returns the cache in a run's or a study's folder."""
        return cls(not_a_link(folder / "cache"))

    def path(self, name: str, key: JSONDict, *, suffix: str = ".json") -> Path:
        """Where the result lies or would lie: FOLDER/NAME-DIGEST.json.

        suffix: "" for the folder of further files. Raises ConfigError for a link in its place.
        """
        path = self.folder / f"{name}-{digest_of(key)[:16]}{suffix}"
        return path if suffix else not_a_link(path)

    def load(self, name: str, key: JSONDict, *, is_valid: Callable[[Record], bool]) -> Record | None:
        """Returns the result with this key; None where there is none that counts, or with numbers beyond MAX_NUMBER.

        is_valid: tells whether value and arrays are what the caller stores; one that fails on them says no.
        """
        record = read_record(self.path(name, key))
        if record is None or digest_of(record.key) != digest_of(key):
            return None
        try:
            return record if _has_plain_numbers(record.value) and is_valid(record) else None
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError):
            return None

    def value(
        self,
        name: str,
        key: JSONDict,
        kind: type[T],
        compute: Callable[[], T],
        *,
        is_valid: Callable[[T], bool] = lambda _: True,
    ) -> T:
        """Returns the value with this key, of the type `kind`; computes and keeps it where there is none that counts.

        kind: a type that pydantic knows, such as a dataclass. A stored value of another type does not count.
        is_valid: as in `load`, where the type does not tell all.
        """
        value = self.stored_value(name, key, kind, is_valid=is_valid)
        if value is None:
            value = compute()
            self.store(name, Record(key, TypeAdapter(kind).dump_python(value, mode="json")))
        return value

    def stored_value(
        self, name: str, key: JSONDict, kind: type[T], *, is_valid: Callable[[T], bool] = lambda _: True
    ) -> T | None:
        """Returns the value with this key, of the type `kind`; None where there is none that counts."""

        def parsed(record: Record) -> T:
            return TypeAdapter(kind).validate_json(json.dumps(record.value), strict=True)

        record = self.load(name, key, is_valid=lambda record: is_valid(parsed(record)))
        return None if record is None else parsed(record)

    def store(self, name: str, record: Record) -> None:
        """Keeps a result, in place of an earlier one with the same key."""
        remove_leftovers(self.folder, min_age_s=LEFTOVER_AGE_S)
        write_record(self.path(name, record.key), record)
