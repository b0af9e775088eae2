"""log.jsonl: one JSON object a line, a step or an event, complete lines only."""

import json
import os
from pathlib import Path
from typing import Any

from segnl.core.errors import MachineError
from segnl.core.files import write_atomic


class RunLog:
    """Appends to RUN/log.jsonl. A line that a kill cut short is dropped when the log is opened again."""

    def __init__(self, path: Path, *, resume_step: int = 0) -> None:
        """resume_step: lines of later steps are dropped, since those steps will be taken again."""
        self.path = path
        kept = [line for line in read_log(path) if line.get("step", 0) <= resume_step]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as err:
            raise MachineError(f"{path}: cannot be written ({err.strerror}); choose another place") from err

    def write(self, **fields: Any) -> None:
        """One line, on its way to the disk when this returns."""
        try:
            self._file.write(json.dumps(fields) + "\n")
            self._file.flush()
        except OSError as err:
            raise MachineError(f"{self.path}: cannot be written ({err.strerror}); free some space") from err

    def close(self) -> None:
        """Makes the log outlive a power cut."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as err:
            raise MachineError(f"{self.path}: cannot be written ({err.strerror}); free some space") from err


class NoLog:
    """The log of a rank that keeps none."""

    def write(self, **fields: Any) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a log, oldest first; [] where there is none yet."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # the one line a kill may have cut, or what a power cut left
        if isinstance(line, dict):
            lines.append(line)
    return lines
