"""Reads log.jsonl of a run: one JSON object a line, for each step and event (training/loggers/jsonl.py writes it)."""

import json
from pathlib import Path
from typing import Any


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
