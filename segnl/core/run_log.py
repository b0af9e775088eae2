"""Reads log.jsonl of a run: one JSON object a line, for each step and event (training/jsonl_log.py writes it)."""

import json
from pathlib import Path
from typing import Any

from segnl.core.errors import MachineError
from segnl.core.files import read_bytes

MAX_NUMBER = 10**15
_NUMBER = (int, float, type(None))
_TYPES = {
    "event": (str,),
    "step": (int,),
    "ranks": (int,),
    "batch": (str,),
    "init": (dict,),
    "loss": _NUMBER,
    "lr": _NUMBER,
    "miou": _NUMBER,
    **dict.fromkeys(("images_per_s", "data_s", "forward_s", "backward_s", "optim_s"), (int, float)),
}
"""Keys that segnl reads back. A line in which one holds something else counts as damaged."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """Reads the complete lines of a log, oldest first; [] if there is no file. Damaged lines are left out.

    Raises MachineError for a file that cannot be read.
    """
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return []
    except OSError as err:
        raise MachineError(f"{path}: cannot be read ({err.strerror}); move it aside") from err
    return log_lines(content)


def log_lines(content: bytes) -> list[dict[str, Any]]:
    """Returns the complete lines of a log, or of its end, oldest first. Damaged lines are left out."""
    lines = []
    for text in content.decode("utf-8", "replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue  # cut short by a kill or damaged by a power cut
        if isinstance(line, dict) and all(_is_valid(line[key], types) for key, types in _TYPES.items() if key in line):
            lines.append(line)
    return lines


def _is_valid(value: Any, types: tuple[type, ...]) -> bool:
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        return False
    return isinstance(value, types) and not isinstance(value, bool)
