"""log.jsonl of a run: one JSON object a line, for each step and event."""

import json
import os
from pathlib import Path
from typing import Any

from segnl.core.errors import MachineError
from segnl.core.files import write_atomic


class RunLog:
    """Writer that appends to RUN/log.jsonl. Opening drops a last line that a kill has cut short."""

    def __init__(self, path: Path, *, resume_step: int = 0) -> None:
        """resume_step: lines of later steps are dropped, because those steps will be repeated."""
        self.path = path
        kept = [line for line in read_log(path) if line.get("step", 0) <= resume_step]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as err:
            raise self._error(err) from err

    def write(self, **fields: Any) -> None:
        """Appends one line and hands it to the system."""
        try:
            self._file.write(json.dumps(fields) + "\n")
            self._file.flush()
        except OSError as err:
            raise self._error(err) from err

    def close(self) -> None:
        """Closes the file, safe from a power cut."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as err:
            raise self._error(err) from err

    def _error(self, err: OSError) -> MachineError:
        return MachineError(f"{self.path}: cannot be written ({err.strerror}); free some space or choose another place")


class NoLog:
    """Stand-in for the log on ranks that write none."""

    def write(self, **fields: Any) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """Reads the complete lines of a log, oldest first; [] if there is no file."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # cut short by a kill or damaged by a power cut
        if isinstance(line, dict):
            lines.append(line)
    return lines
